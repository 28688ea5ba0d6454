"""What is refused before a byte moves."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
import torch

from services.worker.transfer.manifest import (
    MAX_SPANS,
    ManifestRefused,
    Span,
    check_compatible,
    check_spans,
    checksum_of,
    cut,
    merge,
    tag_of,
    without,
)
from shared.contracts.moves import Compatibility

CLASS = Compatibility("sprites window 6", "float32", "abc", "160×96, 12 frames", 1000)


@pytest.mark.parametrize("field", ["architecture", "dtype", "weights_digest", "geometry"])
def test_moves_only_within_a_compatibility_class(field: str) -> None:
    check_compatible(CLASS, CLASS)
    other = msgspec.structs.replace(CLASS, **{field: "other"})
    with pytest.raises(ManifestRefused, match=f"the session's {field} is .*, this worker's 'other'"):
        check_compatible(CLASS, other)


def test_a_model_without_an_architecture_does_not_move_its_sessions() -> None:
    unnamed = msgspec.structs.replace(CLASS, architecture="")
    with pytest.raises(ManifestRefused, match="names no architecture"):
        check_compatible(unnamed, unnamed)


def test_spans_in_order_and_apart_are_taken() -> None:
    check_spans([], 1000)
    check_spans([(0, 10), (10, 20), (990, 1000)], 1000)


@pytest.mark.parametrize(
    "spans",
    [
        [(-1, 10)],
        [(5, 5)],
        [(10, 5)],
        [(0, 1001)],
        [(0, 10), (9, 20)],
        [(10, 20), (0, 5)],
        [(i, i + 1) for i in range(0, 2 * MAX_SPANS + 2, 2)],
    ],
)
def test_spans_that_do_not_fit_are_refused_in_words(spans: list[Span]) -> None:
    with pytest.raises(ManifestRefused, match=r"span \[|spans: at most"):
        check_spans(spans, 10 * MAX_SPANS if len(spans) > MAX_SPANS else 1000)


def test_spans_are_merged_where_they_touch() -> None:
    assert merge([(20, 30), (0, 10), (10, 15), (25, 40), (50, 50)]) == [(0, 15), (20, 40)]


def test_a_checksum_is_of_the_bytes_wherever_they_lie() -> None:
    memory = np.arange(200, dtype=np.uint8)
    expected = hashlib.blake2b(bytes(range(10)) + bytes(range(50, 60)), digest_size=16).hexdigest()
    spans = [(0, 10), (50, 60)]
    assert checksum_of(cut(memory, spans)) == checksum_of(cut(torch.from_numpy(memory), spans)) == expected


def test_each_stage_of_each_move_has_a_tag_of_its_own() -> None:
    assert len({tag_of(move, stage) for move in ("m-1", "m-2") for stage in (0, 1, 2)}) == 6


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [(0, 10), (20, 30)]),
        ([(4, 6)], [(0, 4), (6, 10), (20, 30)]),
        ([(0, 10)], [(20, 30)]),
        ([(8, 22), (29, 40)], [(0, 8), (22, 29)]),
        ([(0, 40)], []),
    ],
)
def test_without_leaves_what_is_among_the_one_alone(others: list[Span], left: list[Span]) -> None:
    assert without([(20, 30), (0, 10)], others) == left
