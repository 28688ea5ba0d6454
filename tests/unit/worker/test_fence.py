import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.fence import AppendAfter, Appended, Early, StartAgain, Superseded, follow, judge
from shared.contracts.stream import Chunk, ChunkTimings

MINE = Chunk(
    session="main_00000000000000000000",
    index=7,
    epoch=3,
    worker="w-1",
    frames=12,
    fps=12.0,
    width=96,
    height=64,
    codec="avc1.42c00b",
    media=b"mine",
    inputs_version=1,
    inputs=[],
    rung="",
    timings=ChunkTimings(),
)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, AppendAfter(0)),
        ({}, Appended(50)),
        ({"epoch": 2}, Appended(50)),
        ({"worker": "w-2"}, Superseded("w-2", 3)),
        ({"worker": "w-2", "epoch": 4, "index": 2}, Superseded("w-2", 4)),
        ({"epoch": 4, "media": b"other"}, Superseded("w-1", 4)),
        ({"worker": "w-2", "epoch": 2}, StartAgain(8, 50)),
        ({"worker": "w-2", "epoch": 2, "index": 9}, StartAgain(10, 50)),
        ({"media": b"of a copy before"}, StartAgain(8, 50)),
        ({"index": 6, "worker": "w-2", "epoch": 2, "media": b""}, AppendAfter(50)),
        ({"index": 3, "media": b""}, StartAgain(4, 50)),
    ],
)
def test_what_a_refused_append_means(last: dict[str, object] | None, expected: object) -> None:
    held = None if last is None else msgspec.structs.replace(MINE, **last)
    assert judge(MINE, held, 50) == expected


@pytest.mark.parametrize(
    ("last", "unappended", "expected"),
    [
        (None, 0, AppendAfter(0)),
        (None, 1, Early()),
        ({"index": 6}, 0, AppendAfter(50)),
        ({"index": 6}, 2, AppendAfter(50)),
        ({"index": 5}, 1, Early()),
        ({"index": 7}, 0, Superseded("w-1", 3)),
        ({"index": 6, "epoch": 5, "worker": "w-3"}, 0, Superseded("w-3", 5)),
    ],
)
def test_a_copy_that_came_by_a_move_goes_on_behind_its_source(
    last: dict[str, object] | None, unappended: int, expected: object
) -> None:
    held = None if last is None else msgspec.structs.replace(MINE, **last)
    assert follow(7, 4, unappended, held, 50) == expected


class Log:
    """The chunk log of one session, as `shared.chunk_log` promises it."""

    def __init__(self) -> None:
        self.held: list[Chunk] = []

    def append(self, chunk: Chunk, after: int) -> bool:
        if after != len(self.held):
            return False
        self.held.append(chunk)
        return True


class Worker:
    """One that tries a chunk at a time, and does what `judge` says when refused."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name, self.epoch, self.next_chunk, self.after, self.superseded = name, epoch, 0, 0, False

    def turn(self, log: Log, answer_lost: bool) -> None:
        if self.superseded:
            return
        media = f"{self.name} {self.next_chunk}".encode()
        chunk = msgspec.structs.replace(
            MINE, index=self.next_chunk, epoch=self.epoch, worker=self.name, media=media
        )
        if log.append(chunk, self.after):
            if not answer_lost:
                self._made(len(log.held))
            return
        match judge(chunk, log.held[-1] if log.held else None, len(log.held)):
            case Appended(sequence):
                self._made(sequence)
            case AppendAfter(sequence):
                self.after = sequence
            case Superseded():
                self.superseded = True
            case StartAgain(next_chunk, sequence):
                self.next_chunk, self.after = next_chunk, sequence

    def _made(self, sequence: int) -> None:
        self.next_chunk, self.after = self.next_chunk + 1, sequence


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_whoever_comes_when_each_index_is_there_once_and_epochs_rise(turns: list[tuple[int, bool]]) -> None:
    log, workers = Log(), [Worker(f"w-{n}", epoch=n) for n in range(3)]
    for number, answer_lost in turns:
        workers[number].turn(log, answer_lost)
    assert [c.index for c in log.held] == list(range(len(log.held)))
    epochs = [c.epoch for c in log.held]
    assert epochs == sorted(epochs)
    assert not workers[-1].superseded
