"""Every type that may stand in an annotation: what is written is read back as it was, or is refused."""

import enum
import math
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from inspect import Parameter
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, Json, SecretStr, computed_field, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from perdure.errors import PerdureError
from perdure.sdk.serde import BytesSerde, JsonSerde, NoneSerde, PydanticSerde, Serde, SerdeError, serde_for

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: str


class Movie(TypedDict, total=False):
    title: str
    year: int


class Item(msgspec.Struct, frozen=True):
    sku: str
    price: Decimal


@dataclass
class Topic:
    name: str
    due: datetime | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Tree:
    label: str
    children: "list[Tree]" = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Cat:
    meows: int


@dataclass
class Dog:
    barks: int


class User(BaseModel):
    name: str
    born: date
    friends: "list[User]" = []


class Page(BaseModel, Generic[T]):
    rows: list[T]


@dataclass
class Report:
    author: User
    topic: Topic


class Envelope(msgspec.Struct):
    user: User
    score: float


class Reply(TypedDict):
    user: User


@pydantic_dataclass
class Limits:
    low: int
    high: int


class Text(str):
    """As libraries make them."""


class Number(float):
    """As libraries make them."""


class Count(int):
    """As libraries make them."""


class Blob(bytes):
    """As libraries make them."""


UserId = NewType("UserId", int)
ANN = User(name="Ann", born=date(2000, 2, 29))
BOB = User(name="Bob", born=date(1999, 12, 31), friends=[ANN])

VALUES: list[tuple[Any, Any]] = [
    (None, {"a": [1, 2.5, None, True, "x"]}),
    (Any, [1, [2]]),
    (Parameter.empty, "text"),
    (object, {"a": 1}),
    (type(None), None),
    (bytes, b"\x00\xff"),
    (bytes, b""),
    (int, 2**70),
    (float, 0.1),
    (str, ""),
    (bool, False),
    (list[bytes], [b"\xff", b""]),
    (Optional[bytes], b""),  # noqa: UP045
    (bytes | None, None),
    (int | None, None),
    (int | None, 3),
    (int | str | None, "3"),
    (Topic, Topic("a", datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC), ["x"])),
    (Tree, Tree("a", [Tree("b"), Tree("c", [Tree("d")])])),
    (Box[datetime], Box(datetime(2024, 1, 2))),
    (Item, Item("a", Decimal("1.10"))),
    (Movie, {"title": "x"}),
    (Pair, Pair(1, "x")),
    (Color, Color.RED),
    (dict[Color, Level], {Color.BLUE: Level.HIGH}),
    (Access, Access.READ | Access.WRITE),
    (Literal["a", 1], 1),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"b", "a"})),
    (tuple[int, str, date], (1, "x", date(2024, 1, 1))),
    (tuple[int, ...], (1, 2, 3)),
    (dict[int, str], {1: "x"}),
    (dict[UUID, timedelta], {UUID(int=5): timedelta(days=1, microseconds=1)}),
    (Annotated[int, msgspec.Meta(gt=0)], 3),
    (Annotated[int, {"unit": "km"}], 3),
    (UserId, UserId(7)),
    (list[object], [1, "x"]),
    (User, BOB),
    (list[User], [ANN, BOB]),
    (User | None, ANN),
    (User | None, None),
    (dict[str, User], {"a": ANN}),
    (User | Topic, Topic("x")),
    (Union[User, Page[int]], Page[int](rows=[1])),  # noqa: UP007
    (Page[User], Page[User](rows=[ANN])),
    (Report, Report(ANN, Topic("x"))),
    (Limits, Limits(1, 2)),
    (Envelope, Envelope(BOB, 0.5)),
    (list[Envelope], [Envelope(BOB, 0.5)]),
    (Reply, {"user": BOB}),
    (Cat | Dog, Dog(3)),
    (list[Cat | Dog], [Cat(1), Dog(2)]),
    (datetime | int, 5),
    (complex, 1 + 2j),
    (Path, Path("/a/b")),
]


@pytest.mark.parametrize(("type_", "value"), VALUES, ids=lambda each: str(each)[:40])
def test_what_is_written_is_read_back(type_: Any, value: Any) -> None:
    serde = serde_for(type_)
    data = serde.serialize(value)
    back = serde.deserialize(data)
    assert type(data) is bytes
    assert back == value
    assert type(back) is type(value)
    assert serde.serialize(back) == data


# ---- any type, any value of it


@dataclass
class Leaf:
    number: int
    text: str | None


class Form(BaseModel):
    when: datetime
    amount: Decimal
    note: str | None = None


def _finite(low: str, high: str) -> st.SearchStrategy[Decimal]:
    return st.decimals(Decimal(low), Decimal(high), allow_nan=False)


_ints = st.integers()
_texts = st.text()
_floats = st.floats(allow_nan=False, allow_infinity=False)
_scalars: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, _ints),
    (str, _texts),
    (float, _floats),
    (bool, st.booleans()),
    (datetime, st.datetimes() | st.datetimes(timezones=st.just(UTC))),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Decimal, _finite("-1e30", "1e30")),
    (Color, st.sampled_from(Color)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Leaf, st.builds(Leaf, _ints, st.none() | _texts)),
    (Item, st.builds(Item, _texts, _finite("0", "1000"))),
    (Pair, st.builds(Pair, _ints, _texts)),
    (Movie, st.fixed_dictionaries({}, optional={"title": _texts, "year": _ints})),
    (Form, st.builds(Form, when=st.datetimes(), amount=_finite("0", "1000"), note=st.none() | _texts)),
]
Typed = tuple[Any, st.SearchStrategy[Any]]


def _fits_a_model(each: Typed) -> bool:
    """Pydantic has no models with a msgspec Struct in them, nor, before Python 3.12, with typing's TypedDict."""
    return all(name not in repr(each[0]) for name in ("Item", "Movie"))


def _page(rows: list[Any]) -> Any:
    return Page(rows=rows)


def _compose(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def of(origin: Any, values: Any, *arguments: Any) -> st.SearchStrategy[Typed]:
        return inner.map(lambda each: (origin[(*arguments, each[0]) if arguments else each[0]], values(each[1])))

    return st.one_of(
        of(list, lambda each: st.lists(each, max_size=3)),
        of(dict, lambda each: st.dictionaries(_texts, each, max_size=3), str),
        of(Optional, lambda each: st.none() | each),
        of(tuple, lambda each: st.tuples(_ints, each), int),
        of(Box, lambda each: each.map(Box)),
        inner.filter(_fits_a_model).map(
            lambda each: (Page.__class_getitem__(each[0]), st.lists(each[1], max_size=3).map(_page))
        ),
        inner.map(lambda each: (tuple.__class_getitem__((each[0], ...)), st.lists(each[1], max_size=3).map(tuple))),
    )


typed = st.recursive(st.sampled_from(_scalars), _compose, max_leaves=4)
plain = st.recursive(
    st.none() | st.booleans() | _ints | _floats | _texts,
    lambda inner: st.lists(inner) | st.dictionaries(_texts, inner),
)


@given(st.data())
def test_any_typed_value_comes_back(data: st.DataObject) -> None:
    type_, values = data.draw(typed)
    value = data.draw(values)
    serde = serde_for(type_)
    back = serde.deserialize(serde.serialize(value))
    assert _plain(back) == _plain(value)


def _plain(value: Any) -> Any:
    """Generic models of different parameters are never equal, so compare what is in them."""
    if isinstance(value, Page):
        return [_plain(row) for row in value.rows]
    if isinstance(value, Box):
        return Box(_plain(value.content))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


@given(plain)
def test_any_plain_value_comes_back_without_a_type(value: Any) -> None:
    serde = serde_for(None)
    assert serde.deserialize(serde.serialize(value)) == value


@given(st.binary())
def test_bytes_are_kept_as_they_are(value: bytes) -> None:
    serde = serde_for(bytes)
    assert serde.serialize(value) == value
    assert serde.deserialize(value) == value


@given(st.binary(), st.sampled_from([None, int, Topic, User, list[User], Envelope, Cat | Dog]))
def test_garbage_is_a_serde_error_or_a_value(data: bytes, type_: Any) -> None:
    try:
        serde_for(type_).deserialize(data)
    except SerdeError as error:
        assert error.direction == "deserialize"


# ---- which serde


@pytest.mark.parametrize(
    ("type_", "kind", "content_type"),
    [
        (None, JsonSerde, "application/json"),
        (type(None), NoneSerde, None),
        (bytes, BytesSerde, "application/octet-stream"),
        (Topic, JsonSerde, "application/json"),
        (list[Tree], JsonSerde, "application/json"),
        (Envelope, JsonSerde, "application/json"),
        (User, PydanticSerde, "application/json"),
        (Report, PydanticSerde, "application/json"),
        (Limits, PydanticSerde, "application/json"),
    ],
)
def test_the_library_that_knows_the_type_writes_it(type_: Any, kind: type, content_type: str | None) -> None:
    serde: Serde[Any] = serde_for(type_)
    assert type(serde) is kind
    assert serde.content_type == content_type


def test_one_serde_per_type() -> None:
    assert serde_for(list[Topic]) is serde_for(list[Topic])
    assert serde_for(None) is serde_for(Any)


def test_pydantic_is_imported_only_for_pydantic() -> None:
    script = """
import sys, dataclasses, datetime
import perdure
from perdure.sdk import serde, service, app
@dataclasses.dataclass
class A:
    when: datetime.datetime
app.App(service.Service("S"))
serde.serde_for(A).serialize(A(datetime.datetime.now()))
serde.serde_for(None).serialize({"a": A(datetime.datetime.now())})
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_pydantic_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    @dataclass
    class Other:
        x: int

    with pytest.raises(SerdeError, match=r"more than one dataclass.*pip install 'perdure\[pydantic\]'"):
        serde_for(Cat | Other)


# ---- None and no bytes


@pytest.mark.parametrize("type_", [None, type(None), int | None, User | None, Topic | None, int | str | None])
def test_none_is_no_bytes(type_: Any) -> None:
    serde = serde_for(type_)
    assert serde.serialize(None) == b""
    assert serde.deserialize(b"") is None
    assert serde.deserialize(b"null") is None


@pytest.mark.parametrize("type_", [int, str, Topic, User, list[User], dict[str, int]])
def test_none_is_not_a_value_of_every_type(type_: Any) -> None:
    with pytest.raises(SerdeError, match=r"cannot serialize .*: got None"):
        serde_for(type_).serialize(None)
    with pytest.raises(SerdeError, match=r"cannot deserialize .*: there are no bytes"):
        serde_for(type_).deserialize(b"")


def test_what_returns_nothing_must_not_return_something() -> None:
    with pytest.raises(SerdeError, match="cannot serialize None: got a value of type int"):
        serde_for(type(None)).serialize(3)


# ---- without a type


def test_without_a_type_values_become_what_json_has() -> None:
    serde = serde_for(None)
    values = {
        "model": ANN,
        "models": [ANN],
        "dataclass": Topic("x"),
        "struct": Item("a", Decimal(1)),
        "mixed": Envelope(ANN, 1.5),
        "when": date(2024, 1, 1),
        "path": PurePosixPath("/a"),
        "range": range(2),
        "proxy": MappingProxyType({"a": 1}),
        "ordered": OrderedDict(b=1, a=2),
        "keys": {"k": 1}.keys(),
        "subclasses": [Text("x"), Number(1.5), Count(2), Blob(b"x")],
    }
    ann = {"name": "Ann", "born": "2000-02-29", "friends": []}
    assert serde.deserialize(serde.serialize(values)) == {
        "model": ann,
        "models": [ann],
        "dataclass": {"name": "x", "due": None, "tags": []},
        "struct": {"sku": "a", "price": "1"},
        "mixed": {"user": ann, "score": 1.5},
        "when": "2024-01-01",
        "path": "/a",
        "range": [0, 1],
        "proxy": {"a": 1},
        "ordered": {"b": 1, "a": 2},
        "keys": ["k"],
        "subclasses": ["x", 1.5, 2, "eA=="],
    }


def test_a_dict_keeps_its_order_and_a_set_gets_one() -> None:
    assert serde_for(None).serialize({"b": 1, "a": 2}) == b'{"b":1,"a":2}'
    assert serde_for(dict[str, int]).serialize({"b": 1, "a": 2}) == b'{"b":1,"a":2}'
    names = {f"n{index:03}" for index in range(100)}
    data = serde_for(set[str]).serialize(names)
    assert msgspec.json.decode(data) == sorted(names)


# ---- what is refused


class Opaque:
    """Nothing says how to write it."""


@pytest.mark.parametrize("type_", [Opaque, list[Opaque], Opaque | None, "Topic", Cat | Opaque, Envelope | Report])
def test_a_type_that_nobody_can_write_is_refused_by_name(type_: Any) -> None:
    with pytest.raises(SerdeError, match=r"cannot describe .*; give a serde, or use a dataclass") as caught:
        serde_for(type_)
    assert caught.value.direction == "describe"


@pytest.mark.parametrize("type_", [Iterable[int], list[Iterator[User]], AsyncIterator[str]])
def test_what_can_be_read_only_once_is_refused(type_: Any) -> None:
    with pytest.raises(SerdeError, match=r"it can be read only once; say list\[\.\.\.\]"):
        serde_for(type_)


def test_errors_name_type_direction_and_cause() -> None:
    with pytest.raises(
        SerdeError, match=r"^cannot deserialize Topic: .*Expected `str`, got `int` - at `\$\.name`"
    ) as one:
        serde_for(Topic).deserialize(b'{"name":3}')
    assert isinstance(one.value.__cause__, msgspec.ValidationError)
    assert (one.value.direction, one.value.type_name) == ("deserialize", "Topic")
    with pytest.raises(SerdeError, match=r"deserialize list\[.*User\]: Field required - at `\$\.0\.born`$"):
        serde_for(list[User]).deserialize(b'[{"name":"x"}]')
    with pytest.raises(SerdeError, match="cannot serialize Opaque: Opaque has no JSON; return plain values"):
        serde_for(None).serialize(Opaque())
    with pytest.raises(SerdeError, match="cannot serialize Opaque as int"):
        serde_for(int).serialize(Opaque())
    with pytest.raises(SerdeError, match="cannot serialize bytes: got a value of type str"):
        serde_for(bytes).serialize("x")
    with pytest.raises(SerdeError, match=r"deserialize JSON: .*truncated"):
        serde_for(None).deserialize(b"{")


def test_a_serde_error_is_one_of_ours_and_can_be_pickled() -> None:
    error = SerdeError("serialize", "Topic", "why")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, PerdureError)
    assert (str(copy), copy.direction, copy.type_name, copy.reason) == (str(error), "serialize", "Topic", "why")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("type_", "wrap"),
    [
        (None, lambda x: x),
        (None, lambda x: {"a": [None, (x,)]}),
        (None, lambda x: Box(x)),
        (None, lambda x: [Number(x)]),
        (float, lambda x: x),
        (float | None, lambda x: x),
        (list[float], lambda x: [1.0, x]),
        (Box[float | None], lambda x: Box(x)),
        (dict[str, Any], lambda x: {"a": x}),
    ],
)
def test_a_number_that_json_lacks_does_not_become_null(number: float, type_: Any, wrap: Any) -> None:
    with pytest.raises(SerdeError, match="JSON has no NaN"):
        serde_for(type_).serialize(wrap(number))


@pytest.mark.parametrize("value", [{"a": None}, [None, "null"], "null", (None, 1.5), Box(None)])
def test_a_null_that_is_one_is_fine(value: Any) -> None:
    assert b"null" in serde_for(None).serialize(value)


# ---- models with wishes of their own


class Camel(BaseModel):
    first_name: str = Field(alias="firstName")


class Crossed(BaseModel):
    a: int = Field(validation_alias="in", serialization_alias="out")


class Choices(BaseModel):
    a: int = Field(validation_alias=AliasChoices("one", "two"), serialization_alias="two")


@pydantic_dataclass
class CrossedDataclass:
    a: int = Field(validation_alias="in", serialization_alias="out")


class WithComputed(BaseModel):
    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.n


class Closed(WithComputed):
    model_config = ConfigDict(extra="forbid")


class WithJson(BaseModel):
    raw: Json[list[int]]


class WithSecret(BaseModel):
    token: SecretStr


class WithShownSecret(BaseModel):
    token: SecretStr

    @field_serializer("token", when_used="json")
    def show(self, value: SecretStr) -> str:
        return value.get_secret_value()


def test_aliases_are_written_where_they_can_be_read() -> None:
    camel, crossed = serde_for(list[Camel]), serde_for(Crossed)
    assert camel.serialize([Camel(firstName="x")]) == b'[{"firstName":"x"}]'
    assert camel.deserialize(b'[{"firstName":"x"}]') == [Camel(firstName="x")]
    assert "firstName" in str(camel.schema())
    value = Crossed(**{"in": 3})
    assert crossed.serialize(value) == b'{"a":3}'
    assert crossed.deserialize(b'{"a":3}') == crossed.deserialize(b'{"in":3}') == value
    dataclass_serde = serde_for(CrossedDataclass)
    assert dataclass_serde.serialize(dataclass_serde.deserialize(b'{"in":3}')) == b'{"a":3}'
    assert dataclass_serde.deserialize(b'{"a":3}').a == 3
    assert serde_for(Choices).serialize(Choices(one=1)) == b'{"two":1}'  # type: ignore[call-arg]
    assert serde_for(Choices).deserialize(b'{"two":1}').a == 1


def test_computed_fields_are_written_unless_they_would_be_refused() -> None:
    assert serde_for(WithComputed).serialize(WithComputed(n=1)) == b'{"n":1,"double":2}'
    assert serde_for(list[Closed]).serialize([Closed(n=1)]) == b'[{"n":1}]'
    assert serde_for(list[Closed]).deserialize(b'[{"n":1}]') == [Closed(n=1)]


def test_json_in_json_comes_back() -> None:
    value = WithJson.model_validate({"raw": "[1,2]"})
    serde = serde_for(WithJson)
    assert serde.deserialize(serde.serialize(value)) == value


def test_a_secret_is_refused_rather_than_kept_as_asterisks() -> None:
    for type_ in (WithSecret, list[WithSecret], SecretStr | None):
        with pytest.raises(SerdeError, match="asterisks"):
            serde_for(type_)
    with pytest.raises(SerdeError, match="asterisks"):
        serde_for(None).serialize({"x": WithSecret(token=SecretStr("s"))})
    shown = serde_for(WithShownSecret)
    assert shown.deserialize(shown.serialize(WithShownSecret(token=SecretStr("s")))).token.get_secret_value() == "s"


# ---- schemas


@pytest.mark.parametrize(
    ("type_", "schema"),
    [
        (int, {"type": "integer"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (None, None),
        (type(None), None),
        (bytes, None),
        (Envelope, None),
    ],
)
def test_schemas(type_: Any, schema: object) -> None:
    assert serde_for(type_).schema() == schema


def test_schemas_of_dataclasses_and_models() -> None:
    topic, users = serde_for(Topic).schema(), serde_for(list[User]).schema()
    assert topic is not None
    assert topic["$defs"]["Topic"]["required"] == ["name"]
    assert users is not None
    assert users["items"] == {"$ref": "#/$defs/User"}
