from collections.abc import Sequence

import pytest

from services.worker import runner
from services.worker.encode import EncodeSettings
from services.worker.measure import _Chunk, _told_enough, chunk_duration_s, measure
from services.worker.models.in_pieces import InPieces
from services.worker.models.protocol import PastChunk, Rung
from tests.fixtures.tiny_model import State, TinyModel


class OneSlot(TinyModel):
    """Has room for a single copy."""

    def reserve(self) -> State:
        raise RuntimeError("all 1 slots hold sessions")


def test_measures_every_rung_alone_and_together() -> None:
    tiny = runner.load("tests.fixtures.tiny_model", "tiny", "cpu", "")
    measured = measure(tiny, EncodeSettings(), max_rows=2)
    assert chunk_duration_s(tiny.spec) == 1.0
    assert [(p.rung, p.batch) for p in measured.report()] == [
        ("tiny-default", 1),
        ("tiny-default", 2),
        ("tiny-fast", 1),
        ("tiny-fast", 2),
    ]
    assert all(point.chunk_s > 0 for point in measured.report())
    assert [pace.forwards for pace in measured.paces.values()] == [2, 1]
    assert measured.default.encode_s > 0
    assert set(measured.curves()) == {"", "tiny-default", "tiny-fast"}


class Remembers(TinyModel):
    """From what it was rebuilt."""

    def __init__(self) -> None:
        self.past: list[int] = []

    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        self.past = [chunk.index for chunk in past]
        return super().rebuild_in_pieces(seed=seed, prompt=prompt, past=past)


class Forgets(Remembers):
    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        super().rebuild_in_pieces(seed=seed, prompt=prompt, past=past)
        raise RuntimeError("of no use")


@pytest.mark.parametrize("kind", [Remembers, Forgets])
def test_a_state_is_rebuilt_before_the_first_one_is_lost_and_that_may_fail(kind: type[Remembers]) -> None:
    model = kind()
    measured = measure(runner.Runner(model, "cpu"), EncodeSettings(), max_rows=1)
    assert model.past == [0, 1, 2, 3]
    assert measured.default.forwards == 2


def test_a_device_with_room_for_one_session_is_measured_with_one() -> None:
    measured = measure(runner.Runner(OneSlot(), "cpu"), EncodeSettings(), max_rows=8)
    assert [rows for rows, _ in measured.default.curve.step_s] == [1]


class Notes(TinyModel):
    """What each chunk was made of."""

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self._changed = False

    def set_prompt(self, state: State, prompt: str) -> None:
        super().set_prompt(state, prompt)
        self._changed = True

    def begin_chunk(self, state: State, rung: Rung) -> int:
        self.chunks.append(f"{rung.name}, changed" if self._changed else rung.name)
        self._changed = False
        return super().begin_chunk(state, rung)


def test_the_chunk_of_a_changed_prompt_is_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four fill the window, one shows the prompt and is counted; then both rungs tell their forwards."""
    monkeypatch.setattr("services.worker.measure._undisturbed", lambda _: True)
    monkeypatch.setattr("services.worker.measure._told_enough", lambda _: True)
    model = Notes()
    measured = measure(runner.Runner(model, "cpu"), EncodeSettings(), max_rows=1)
    default = "tiny-default"
    assert model.chunks == [*[default] * 4, f"{default}, changed", default, "tiny-fast"]
    assert [pace.forwards for pace in measured.paces.values()] == [2, 1]


@pytest.mark.parametrize(
    ("chunks", "enough"),
    [
        pytest.param([(0.054, 0.099, 0.0545)], True, id="two steps agree"),
        pytest.param([(0.054, 0.056, 0.058)], False, id="none agree"),
        pytest.param([(0.01, 0.01, 0.01)], False, id="short steps"),
        pytest.param([(0.01, 0.01), (0.0101, 0.0102)], True, id="short ones of two chunks"),
        pytest.param([(0.054,)], False, id="a single step"),
    ],
)
def test_counting_ends_with_what_agrees(chunks: list[tuple[float, ...]], enough: bool) -> None:
    assert _told_enough([_Chunk(steps_s, 0.0, 0.0) for steps_s in chunks]) == enough
