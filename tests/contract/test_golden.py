"""The wire is frozen: what is written here today must be read by every later version, and the other way
round.

To change it on purpose: `python -m tests.contract.test_golden` writes the golden files anew. Read the diff: a
field that moved, went or changed its type breaks whoever still runs the version before.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import codec
from shared.contracts.events import CloudEvent
from shared.contracts.session import Refusal
from shared.contracts.subjects import ALL, Request
from tests.contract.examples import EVENT, MESSAGES

GOLDEN = Path(__file__).parent / "golden"
BYTES_A_LINE = 16
ON_PURPOSE = "the wire changed; if that is meant: python -m tests.contract.test_golden, and read the diff"

each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)


def test_every_subject_has_a_golden_message() -> None:
    spoken = (
        {subject.struct for subject in ALL} | {s.reply for s in ALL if isinstance(s, Request)} | {Refusal}
    )
    assert {type(message) for message in MESSAGES} == spoken
    files = {path.name for path in GOLDEN.iterdir()}
    assert files == {f"{struct.__name__}.hex" for struct in spoken} | {"CloudEvent.json"}


@each_message
def test_encoding_is_the_golden_one(message: msgspec.Struct) -> None:
    assert dump(codec.encode(message)) == _path(message).read_text(), ON_PURPOSE


@each_message
def test_golden_bytes_are_understood(message: msgspec.Struct) -> None:
    assert codec.decode(type(message), undump(_path(message).read_text())) == message, ON_PURPOSE


@each_message
def test_the_golden_message_shows_every_field(message: msgspec.Struct) -> None:
    shown_by_default = [
        field.name
        for field in msgspec.structs.fields(message)
        if not field.required and getattr(message, field.name) == _default(field)
    ]
    assert shown_by_default == []


@each_message
def test_an_old_reader_skips_fields_it_does_not_know(message: msgspec.Struct) -> None:
    newer = _fields(message) | {"added_later": [{"deep": 1}, b"\x00", None]}
    assert codec.decode(type(message), msgspec.msgpack.encode(newer)) == message


@each_message
def test_a_new_reader_fills_fields_an_old_writer_left_out(message: msgspec.Struct) -> None:
    fields = msgspec.structs.fields(message)
    required = {field.name: _fields(message)[field.name] for field in fields if field.required}
    decoded = codec.decode(type(message), msgspec.msgpack.encode(required))
    assert {f.name: getattr(decoded, f.name) for f in fields if not f.required} == {
        f.name: _default(f) for f in fields if not f.required
    }


def test_the_event_is_its_golden_json() -> None:
    golden = (GOLDEN / "CloudEvent.json").read_bytes()
    assert event_json() == golden, ON_PURPOSE
    assert msgspec.json.decode(golden, type=CloudEvent) == EVENT


def event_json() -> bytes:
    return msgspec.json.format(msgspec.json.encode(EVENT), indent=2) + b"\n"


def dump(payload: bytes) -> str:
    """Hex and text side by side, so that a change can be read in a diff."""
    rows = (payload[at : at + BYTES_A_LINE] for at in range(0, len(payload), BYTES_A_LINE))
    return "".join(f"{row.hex(' '):<{3 * BYTES_A_LINE}} {_printable(row)}\n" for row in rows)


def undump(text: str) -> bytes:
    return b"".join(bytes.fromhex(line[: 3 * BYTES_A_LINE]) for line in text.splitlines())


def _printable(row: bytes) -> str:
    return "".join(chr(byte) if 32 < byte < 127 else "." for byte in row)


def _path(message: msgspec.Struct) -> Path:
    return GOLDEN / f"{type(message).__name__}.hex"


def _fields(message: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return fields


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


if __name__ == "__main__":
    for stale in GOLDEN.iterdir():
        stale.unlink()
    for example in MESSAGES:
        _path(example).write_text(dump(codec.encode(example)))
    (GOLDEN / "CloudEvent.json").write_bytes(event_json())
