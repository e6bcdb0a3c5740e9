"""Forms from schemas: what a person fills in becomes the JSON it stands for."""

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import msgspec
import pydantic
import pytest

from perdure.errors import Invalid
from perdure.sdk.serde import serde_for
from perdure.web.forms import fields_of, read_fields


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    name: str
    count: int
    price: float
    colour: Colour
    day: date
    express: bool
    level: Literal[1, 2, 3]
    text: Annotated[str, msgspec.Meta(max_length=5000)]
    lines: list[int]
    hint: Optional[str] = None  # noqa: UP045
    limit: int | None = None


class Model(pydantic.BaseModel):
    name: str
    colour: Colour
    limit: int | None = pydantic.Field(default=3, title="Most", description="how many")


FILLED = {
    "name": "a\r\nb",
    "count": " 3 ",
    "price": "1.5",
    "colour": "blue",
    "day": "2030-01-02",
    "level": "2",
    "text": "long",
    "lines": "[1, 2]",
    "hint": "",
}


def test_an_object_has_a_field_for_each_property() -> None:
    fields = fields_of(serde_for(Order).schema())
    kinds = ["text", "integer", "number", "choice", "date", "boolean", "choice", "long", "json", "text", "integer"]
    assert [field.kind for field in fields] == kinds
    assert [field.required for field in fields] == [True] * 9 + [False] * 2
    value = read_fields(fields, FILLED)
    assert value == {
        "name": "a\nb",
        "count": 3,
        "price": 1.5,
        "colour": "blue",
        "day": "2030-01-02",
        "express": False,
        "level": 2,
        "text": "long",
        "lines": [1, 2],
    }
    assert msgspec.convert(value, Order).colour is Colour.BLUE


def test_a_model() -> None:
    fields = fields_of(serde_for(Model).schema())
    assert [(field.name, field.kind, field.nullable) for field in fields] == [
        ("name", "text", False),
        ("colour", "choice", False),
        ("limit", "integer", True),
    ]
    assert (fields[2].title, fields[2].description) == ("Most", "how many")
    assert read_fields(fields, {"name": "x", "colour": "red", "limit": "4"}) == {
        "name": "x",
        "colour": "red",
        "limit": 4,
    }


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(int, "5", 5), (str, "5", "5"), (bool, "yes", True), (list[str], '["a"]', ["a"]), (int | None, "", None)],
)
def test_what_is_no_object_is_one_field(kind: Any, text: str, value: Any) -> None:
    fields = fields_of(serde_for(kind).schema())
    assert [field.name for field in fields] == [""]
    assert read_fields(fields, {"": text}) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("count", "1.5", "value.count: '1.5' is not a whole number"),
        ("count", "", "value.count: it is missing"),
        ("price", "much", "value.price: 'much' is not a number"),
        ("colour", "green", "value.colour: 'green' is none of red, blue"),
        ("express", "maybe", "value.express: 'maybe' is neither yes nor no"),
        ("lines", "[1", "value.lines: '[1' is not JSON"),
    ],
)
def test_what_is_not_meant(name: str, text: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_fields(fields_of(serde_for(Order).schema()), {**FILLED, name: text})
    assert caught.value.message.startswith(said.partition(" of ")[0])


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"anyOf": []},
        {"anyOf": [{"type": "null"}]},
        {"type": ["string", "integer"]},
        {"$ref": "http://x/y"},
    ],
    ids=str,
)
def test_schemas_that_say_little(schema: dict[str, Any]) -> None:
    fields = fields_of(schema)
    assert [field.kind for field in fields] == ["json"]
    assert read_fields(fields, {"": '"x"'}) == "x"
    assert fields_of(None) == []
