"""What the journal keeps of a call: any value comes back, and tokens in one shape."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import SerdeError
from perdure.ai.records import Record, RecordSerde, Usage, usage_of
from perdure.sdk.serde import serde_for

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_plain_values_come_back(value: Any) -> None:
    serde = RecordSerde(serde_for(None))
    usage = Usage(provider="p", output_tokens=1)
    assert serde.deserialize(serde.serialize(Record(value, usage=usage))) == Record(value, usage=usage)
    assert serde.deserialize(serde.serialize(Record(raised=("Interrupt", value)))) == Record(
        raised=("Interrupt", value)
    )


@given(st.binary())
def test_bytes_come_back(value: bytes) -> None:
    serde = RecordSerde(serde_for(bytes))
    assert serde.deserialize(serde.serialize(Record(value))).value == value


def test_what_does_not_fit_its_type_is_plain_or_refused() -> None:
    written = RecordSerde(serde_for(int), lenient=True).serialize(Record({"a": 1}))
    assert RecordSerde(serde_for(int), lenient=True).deserialize(written).value == {"a": 1}
    strict = RecordSerde(serde_for(int))
    with pytest.raises(SerdeError):
        strict.deserialize(strict.serialize(Record("text")))
    with pytest.raises(SerdeError):
        RecordSerde(serde_for(int), lenient=True).serialize(Record(object()))


def test_a_record_can_be_read_by_anybody() -> None:
    record = Record([1], usage=Usage(provider="openai", model="m", input_tokens=3))
    document = {"usage": {"provider": "openai", "model": "m", "input_tokens": 3}, "value": [1]}
    assert json.loads(RecordSerde(serde_for(list[int])).serialize(record)) == document
    with pytest.raises(SerdeError):
        RecordSerde(serde_for(None)).deserialize(b"no record")


@pytest.mark.parametrize(
    "counts",
    [
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
    ],
)
def test_openais_tokens(counts: dict[str, Any]) -> None:
    assert usage_of("openai", "m", counts) == Usage("openai", "m", 100, 20, cached_tokens=60, reasoning_tokens=5)


def test_anthropics_tokens_include_the_cache() -> None:
    counts = {"input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "output_tokens": 20}
    assert usage_of("a", "m", counts) == Usage("a", "m", 100, 20, cached_tokens=60, cache_write_tokens=30)
    assert usage_of("a", "m", {"input_tokens": None, "output_tokens_details": 3}) == Usage("a", "m")
