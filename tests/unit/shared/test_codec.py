"""Any bytes are either the struct or `Undecodable`, never another error."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import codec
from shared.contracts.session import OpenSession
from shared.contracts.stream import ChunkReady
from shared.contracts.subjects import ALL

STRUCTS = sorted({subject.struct for subject in ALL}, key=lambda struct: struct.__name__)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(STRUCTS), st.binary(max_size=200) | plain.map(msgspec.msgpack.encode))
def test_random_bytes_raise_nothing_but_undecodable(struct: type[msgspec.Struct], payload: bytes) -> None:
    try:
        message = codec.decode(struct, payload)
    except codec.Undecodable:
        return
    assert isinstance(message, struct)


def test_a_message_comes_back_as_it_was() -> None:
    message = ChunkReady(1, 2, 3)
    assert codec.decode(ChunkReady, codec.encode(message)) == message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x81",
        b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc1",
        msgspec.msgpack.encode({"inputs": 1}),
        b"\x81\xa6inputs\x91\x81\xa4kind\xa2\xff\xfe",
        codec.encode(ChunkReady(1, 2, 3)),
        codec.encode(ChunkReady(1, 2, 3)) + b"\x00",
    ],
    ids=[
        "empty",
        "cut off",
        "nested deep",
        "huge map",
        "reserved",
        "type",
        "not UTF-8",
        "other",
        "more behind",
    ],
)
def test_what_is_not_the_struct_is_undecodable(payload: bytes) -> None:
    with pytest.raises(codec.Undecodable, match="OpenSession"):
        codec.decode(OpenSession, payload)
