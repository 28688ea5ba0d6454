"""A move sends the state unless that makes viewers wait longer than rebuilding it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.carry import LinkRates, Picture, Way, sending_pause_s, way

# 480×832, window of 12 latent frames, small decoder: one chunk writes a quarter of the ring.
WAN = Picture(state_bytes=3_600_000_000, chunk_bytes=870_000_000, chunk_s=0.75, rebuild_s=0.5)
SPRITES = Picture(state_bytes=12_000_000, chunk_bytes=3_000_000, chunk_s=1.5, rebuild_s=0.2)
NVLINK, PCIE, GIGABIT = 200e9, 20e9, 0.11e9
AHEAD_S, PATIENCE_S = 1.0, 2.0

seconds = st.floats(0.01, 10.0)
pictures = st.builds(
    Picture, st.integers(1, 10**11), st.integers(1, 10**10), seconds, st.one_of(st.none(), seconds)
)
rates = st.floats(1e6, 1e12)


@pytest.mark.parametrize(
    ("picture", "link", "expected"),
    [
        (WAN, NVLINK, Way.SEND),
        (WAN, PCIE, Way.SEND),
        (WAN, GIGABIT, Way.REBUILD),
        (SPRITES, GIGABIT, Way.SEND),
        (WAN._replace(rebuild_s=None), GIGABIT, Way.SEND),
        (WAN._replace(rebuild_s=60.0), GIGABIT, Way.SEND),
    ],
)
def test_links_as_there_are(picture: Picture, link: float, expected: Way) -> None:
    assert way(picture, link, AHEAD_S, PATIENCE_S) is expected


def test_who_is_waited_for_is_rebuilt_where_that_is_quicker_than_all_of_its_state() -> None:
    assert way(WAN.paused(), NVLINK, 0.0, PATIENCE_S) is Way.SEND
    assert way(WAN.paused(), 2.5e9, 0.0, PATIENCE_S) is Way.REBUILD
    assert way(WAN, 2.5e9, AHEAD_S, PATIENCE_S) is Way.SEND, "while it plays most of it is sent unseen"
    assert way(SPRITES.paused(), GIGABIT, 0.0, PATIENCE_S) is Way.SEND


def test_the_pause_is_what_the_last_pre_copy_left() -> None:
    assert sending_pause_s(WAN, NVLINK) == pytest.approx(870e6 / NVLINK)
    assert sending_pause_s(WAN, GIGABIT) == pytest.approx(3.6e9 / GIGABIT)  # it never catches up


@given(pictures, rates, rates)
def test_a_quicker_link_never_pauses_for_longer(picture: Picture, one: float, other: float) -> None:
    slow, quick = sorted((one, other))
    pauses = sending_pause_s(picture, slow), sending_pause_s(picture, quick)
    assert pauses[1] <= pauses[0] * (1 + 1e-9)
    assert pauses[0] <= picture.state_bytes / slow * (1 + 1e-9)


@given(pictures, rates, seconds, seconds)
def test_rebuilding_is_only_for_longer_pauses_that_are_seen_or_end_the_move(
    picture: Picture, link: float, ahead_s: float, patience_s: float
) -> None:
    if way(picture, link, ahead_s, patience_s) is Way.REBUILD:
        assert picture.rebuild_s is not None
        pause_s = sending_pause_s(picture, link)
        assert pause_s > max(min(ahead_s, patience_s), picture.rebuild_s)


def test_a_link_is_as_fast_as_it_was_lately() -> None:
    rates = LinkRates()
    assumed = rates.bytes_per_s("w-2", "tcp", 0.0)
    rates.note("w-2", "tcp", 1 << 30, 10.0, now=1.0)
    rates.note("w-2", "tcp", 1000, 0.5, now=2.0)
    assert rates.bytes_per_s("w-2", "tcp", 3.0) == (1 << 30) / 10.0
    assert rates.bytes_per_s("w-3", "tcp", 3.0) == rates.bytes_per_s("w-2", "tcp", 1000.0) == assumed
    assert rates.bytes_per_s("w-2", "nccl", 3.0) > assumed
