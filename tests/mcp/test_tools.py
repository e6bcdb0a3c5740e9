"""Which tool a handler is: names, schemas, arguments."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from perdure.errors import Invalid
from perdure.mcp.tools import HandlerTool, tools_of
from perdure.model.services import ServiceInfo
from perdure.sdk.app import App
from perdure.sdk.service import Service
from perdure.web.services import service_metadata
from tests.mcp.served import app


def described(app: App) -> list[dict[str, Any]]:
    """What `GET /services` tells of it."""
    infos: list[ServiceInfo] = [service.info for service in app.services.values()]
    return [msgspec.to_builtins(service_metadata(info, "dp_1", 1)) for info in infos]


@pytest.fixture
def tools() -> dict[str, HandlerTool]:
    return tools_of(described(app))


def test_every_public_handler_is_a_tool(tools: dict[str, HandlerTool]) -> None:
    assert sorted(tools) == [
        "Counter_add",
        "Counter_get",
        "Report_run",
        "Shop_nothing",
        "Shop_order",
        "Shop_refuse",
        "Shop_reverse",
        "Shop_shout",
        "Shop_stages",
        "Shop_wait",
    ]
    assert tools["Shop_order"].description == "Orders things; each costs 2.\n\nShop: Sells things."
    assert tools["Shop_order"].title == "Order things"
    assert tools["Counter_get"].read_only and not tools["Counter_add"].read_only
    assert set(tools_of(described(app), frozenset({"Counter"}))) == {"Counter_add", "Counter_get"}


@pytest.mark.parametrize(
    ("name", "arguments", "request_"),
    [
        ("Shop_order", {"items": [{"name": "tea"}]}, (None, b'{"items":[{"name":"tea"}]}')),
        ("Shop_shout", {"input": "hi"}, (None, b'"hi"')),
        ("Shop_nothing", {}, (None, b"")),
        ("Shop_reverse", {"input": "abc"}, (None, b"abc")),
        ("Counter_add", {"key": "k", "input": 5}, ("k", b"5")),
        ("Counter_get", {"key": "k"}, ("k", b"")),
        ("Report_run", {"key": "k", "items": []}, ("k", b'{"items":[]}')),
    ],
)
def test_arguments_are_a_request(
    tools: dict[str, HandlerTool], name: str, arguments: dict[str, Any], request_: tuple[str | None, bytes]
) -> None:
    schema = tools[name].input_schema
    assert schema["type"] == "object"
    assert jsonschema_rs.validator_for(schema).is_valid(arguments)
    assert tools[name].request(arguments) == request_


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("Counter_add", {"input": 5}, "key must say which Counter"),
        ("Counter_add", {"key": "", "input": 5}, "key must say which Counter"),
        ("Shop_nothing", {"x": 1}, "takes no arguments, not x"),
        ("Shop_shout", {"text": "hi"}, "takes input, not text"),
        ("Shop_reverse", {"input": 5}, "must be text"),
    ],
)
def test_what_does_not_fit_is_named(
    tools: dict[str, HandlerTool], name: str, arguments: dict[str, Any], why: str
) -> None:
    assert not jsonschema_rs.validator_for(tools[name].input_schema).is_valid(arguments)
    with pytest.raises(Invalid, match=why):
        tools[name].request(arguments)


def test_an_output_schema_is_there_for_objects(tools: dict[str, HandlerTool]) -> None:
    schema = tools["Shop_order"].output_schema
    assert schema is not None and schema["type"] == "object"
    assert jsonschema_rs.validator_for(schema).is_valid({"total": 2, "lines": ["tea"]})
    assert tools["Shop_shout"].output_schema is None


def test_a_field_named_key_is_not_the_objects_key() -> None:
    schema = {"type": "object", "properties": {"key": {"type": "integer"}}, "required": ["key"]}
    handler = {"name": "put", "public": True, "input_description": "JSON", "input_json_schema": schema}
    (tool,) = tools_of([{"name": "Box", "ty": "VirtualObject", "handlers": [handler]}]).values()
    assert tool.input_schema["properties"]["input"] == schema
    assert tool.request({"key": "a", "input": {"key": 5}}) == ("a", b'{"key":5}')


def test_names_are_short_of_few_characters_and_each_there_once() -> None:
    handlers = [{"name": name, "public": True} for name in ("a_b", "x" * 80, "x" * 81)]
    services = [{"name": "my.S", "ty": "Service", "handlers": handlers}]
    services.append({"name": "my.S_a", "ty": "Service", "handlers": [{"name": "b", "public": True}]})
    names = list(tools_of(services))
    assert len(names) == 4 and names[0] == "my_S_a_b" and names[3] == "my_S_a_b_2"
    assert all(len(name) <= 64 and name.replace("_", "").isalnum() for name in names)


def test_a_handler_without_a_schema_takes_anything() -> None:
    service = Service("Any")

    @service.handler()
    async def take(ctx: Any, value: Any) -> Any: ...

    (tool,) = tools_of(described(App(service))).values()
    assert tool.input_schema["properties"] == {"input": {}} and tool.input_schema["required"] == []
    assert tool.request({}) == (None, b"")
    assert tool.request({"input": [1]}) == (None, b"[1]")
