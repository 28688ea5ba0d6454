"""The engine without a bus: a state that found no room anywhere is rebuilt from its chunks' latents, and the
picture goes on.
"""

from collections import defaultdict

import av
import numpy as np
import numpy.typing as npt
import pytest

from services.worker import runner
from services.worker.copies import Copy
from services.worker.making import Made
from services.worker.models.protocol import PastChunk
from services.worker.runner import Runner
from shared.latent_log import Window
from tests.fixtures.worker_wire import next_own, steered
from tests.unit.worker.test_engine import Bench, running

# Measured: 47 to 52 dB after encoding, 70 and more before; 11 to 22 for a picture begun anew.
MUCH_THE_SAME_DB = 40.0
FIRST, THEN = "a big green heart moving left over the sea", "now white"
BEFORE, AFTER = 5, 7


class Memory:
    """What the cold tier would hold, and the pictures."""

    def __init__(self, bench: Bench) -> None:
        spec = bench.engine.runner.spec
        self.window = Window(spec.recent_chunks, spec.sink_chunks)
        self.places: dict[tuple[str, int], PastChunk] = {}
        self.frames: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
        self._deliver = bench.engine.encoding.deliver
        bench.engine.encoding.deliver, bench.engine.keep_latents = self.deliver, True
        bench.states.shelf.on_lost = bench.roster.lost

    def deliver(self, made: Made) -> None:
        assert made.latents is not None
        session = made.order.copy.session
        place = self.window.place(made.latents.index, made.latents.origin)
        self.places[session, place] = made.latents
        self.frames[session].append(decoded(made.media.data))
        self._deliver(made)

    def past(self, copy: Copy) -> tuple[PastChunk, ...]:
        held = [chunk for (session, _), chunk in self.places.items() if session == copy.session]
        return tuple(sorted(held, key=lambda chunk: chunk.index))


def decoded(media: bytes) -> npt.NDArray[np.float64]:
    codec = av.CodecContext.create("h264", "r")
    frames = [*codec.decode(av.Packet(media)), *codec.decode(None)]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(np.float64)


def likeness_db(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((one - other) ** 2).mean())))


def played(bench: Bench, chunks: int) -> Copy:
    copy = bench.open(0, FIRST)
    bench.play(copy, 2)
    bench.roster.apply(copy, steered(copy.own, THEN))
    bench.play(copy, chunks)
    bench.roster.apply(copy, next_own(copy.own, paused=True))
    return copy


@pytest.fixture(scope="module")
def sprites() -> Runner:
    return runner.load("services.worker.models", "sprites", "cpu", "")


@pytest.mark.parametrize("rebuilding", [True, False])
def test_a_lost_picture_goes_on_with_what_only_an_earlier_prompt_said(
    sprites: Runner, rebuilding: bool
) -> None:
    with running(sprites, hot=1, host=0) as bench:
        memory = Memory(bench)
        stayed, lost = played(bench, AFTER), played(bench, BEFORE)
        bench.play(bench.open(0), 1)
        bench.until(lambda: lost.seeking)
        assert lost.tier == "none"
        bench.roster.apply(lost, next_own(lost.own, paused=False))
        bench.roster.grant(lost, AFTER - 3)
        bench.look_again()
        assert lost.next_chunk == BEFORE  # it waits to hear what it can be rebuilt from
        assert lost.report().state == "rebuilding"
        bench.roster.found(lost, lost.generation, memory.past(lost) if rebuilding else ())
        bench.play(lost, AFTER)
    pairs = zip(memory.frames[lost.session], memory.frames[stayed.session], strict=True)
    likenesses = [likeness_db(one, other[-len(one) :]) for one, other in pairs]
    assert min(likenesses[:BEFORE]) > MUCH_THE_SAME_DB
    assert [likeness > MUCH_THE_SAME_DB for likeness in likenesses[BEFORE:]] == [rebuilding] * (
        AFTER - BEFORE
    )
