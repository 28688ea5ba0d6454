from __future__ import annotations

import msgspec
import pytest
import torch

from services.worker.transfer.manifest import (
    Compatibility,
    Corrupt,
    Manifest,
    ManifestRefused,
    Part,
    buffers_for,
    check,
    describe,
    verify,
)

CLASS = Compatibility("sprites", "float32", "abc", "160x96x12")
TENSORS = {
    "kv": torch.randn(2, 3),
    "half": torch.ones(4, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "counter": torch.tensor(7),
}
ROOM_BYTES = 1000


def manifest_of(checksums: bool = True) -> Manifest:
    return describe(TENSORS, move_id="m", session="s", compatibility=CLASS, checksums=checksums)


def test_a_good_manifest_gives_buffers_of_its_shapes_and_knows_what_arrived() -> None:
    manifest = manifest_of()
    layout = {part.name: part for part in manifest.parts}
    check(manifest, CLASS, manifest.bytes, layout)
    buffers = buffers_for(manifest)
    with pytest.raises(Corrupt, match="move m arrived with other bytes"):
        verify(manifest, {name: torch.zeros_like(buffer) for name, buffer in buffers.items()})
    for name, buffer in buffers.items():
        assert (buffer.shape, buffer.dtype) == (TENSORS[name].shape, TENSORS[name].dtype)
        buffer.copy_(TENSORS[name])
    verify(manifest, buffers)


@pytest.mark.parametrize("field", Compatibility.__struct_fields__)
def test_moves_only_within_a_compatibility_class(field: str) -> None:
    other = msgspec.structs.replace(CLASS, **{field: "other"})
    with pytest.raises(ManifestRefused, match=f"the session's {field} is .*, this worker's 'other'"):
        check(manifest_of(), other, ROOM_BYTES)


GOOD = Part("kv", [2, 3], "float32", 24)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "0 parts"),
        ([GOOD, GOOD], "same name"),
        ([Part("kv", [2, 3], "complex64", 48)], "dtype 'complex64': expected one of float32"),
        ([Part("kv", [2, 3], "float32", 25)], "says 25 bytes, but float32 of shape .* has 24"),
        ([Part("kv", [-2, -3], "float32", 24)], "negative size"),
        ([Part("kv", [1 << 20], "float32", 4 << 20)], "4194304 bytes, a slot here 1000"),
        ([Part("other", [2], "uint8", 2)], "lacks kv"),
        ([GOOD, Part("other", [2], "uint8", 2)], "no part 'other'"),
        ([Part("kv", [3, 2], "float32", 24)], r"float32 \[3, 2\], this worker's float32 \[2, 3\]"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_in_words(parts: list[Part], words: str) -> None:
    with pytest.raises(ManifestRefused, match=words):
        check(Manifest("m", "s", CLASS, parts), CLASS, ROOM_BYTES, {"kv": GOOD})
