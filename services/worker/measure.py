"""How fast this device is with this model, found out at start by throw-away sessions: alone, then 2, 4, …
together. It warms everything up as well.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.worker import encode
from services.worker.curve import MIN_GAIN, Curve, Pace
from services.worker.models.in_pieces import at_once
from services.worker.models.protocol import ModelSpec, PastChunk, Rung, State
from services.worker.phases import timed
from services.worker.runner import Runner
from shared.contracts.fleet import LatencyPoint

logger = logging.getLogger(__name__)

_MEASURED_CHUNKS = 5
_ALIKE = 1.03  # steps that differ by less than that: more would tell nothing new
_SHORT_S = 0.02  # of steps so short it takes two chunks to tell the quickest from chance
_MEASURE_DEADLINE_S = 20.0


class _Chunk(NamedTuple):
    """`steps_s`: of every forward. `encode_s` 0: it wasn't encoded."""

    steps_s: tuple[float, ...]
    decode_s: float
    encode_s: float

    @property
    def step_s(self) -> float:
        return min(self.steps_s)


class Measured(NamedTuple):
    """`paces`: by rung, each at a full window."""

    default: Pace
    paces: Mapping[str, Pace]

    def curves(self) -> dict[str, Curve]:
        """As planning wants them: "" is the default rung's."""
        return {"": self.default.curve} | {rung: pace.curve for rung, pace in self.paces.items()}

    def report(self) -> list[LatencyPoint]:
        return [
            LatencyPoint(rows, pace.chunk_s(rows), rung)
            for rung, pace in self.paces.items()
            for rows, _ in pace.curve.step_s
        ]


def measure(runner: Runner, settings: encode.EncodeSettings, max_rows: int) -> Measured:
    """Every rung; those that shape their forwards alike share a curve. What would take longer than the
    deadline is left out, but for the first chunks of a kind.
    """
    deadline = time.monotonic() + _MEASURE_DEADLINE_S
    state = runner.open(seed=0, prompt="", first_chunk=0)
    with timed("measurements' full window"):
        past = _fill_window(runner, state, settings, deadline)
    with timed("measurements' rebuild"):
        _rebuild(runner, past, deadline)
    paces: dict[str, Pace] = {}
    for kind in dict.fromkeys(map(kind_of, runner.spec.rungs)):
        alike = [rung for rung in runner.spec.rungs if kind_of(rung) == kind]
        with timed(f"measurements of rung {alike[0].name}"):
            paces |= _of_a_kind(runner, state, alike, settings, max_rows, deadline)
    paces = _shown_alike(paces)
    return Measured(paces[runner.spec.rungs[0].name], paces)


def _shown_alike(paces: Mapping[str, Pace]) -> dict[str, Pace]:
    """Pictures are decoded and encoded alike whatever rung made them, so the quickest counts for all."""
    decode_s = min(pace.decode_s for pace in paces.values())
    encode_s = min(pace.encode_s for pace in paces.values())
    return {name: pace._replace(decode_s=decode_s, encode_s=encode_s) for name, pace in paces.items()}


def _of_a_kind(
    runner: Runner,
    state: State,
    rungs: Sequence[Rung],
    settings: encode.EncodeSettings,
    max_rows: int,
    deadline: float,
) -> dict[str, Pace]:
    """Every place it took, but for the state's, is free again afterwards."""
    alone = _alone(runner, state, rungs[0], settings, deadline)
    curve = _curve(runner, state, rungs[0], alone.step_s, max_rows, deadline)
    forwards = {rung.name: runner.begin_chunk(state, rung.name) for rung in rungs}  # each begun anew
    return {name: Pace(curve, count, alone.decode_s, alone.encode_s) for name, count in forwards.items()}


def kind_of(rung: Rung) -> str:
    """What shapes a forward. How many forwards a chunk takes doesn't."""
    return f"window {rung.window_latent_frames}, {rung.kv_dtype}, {rung.precision or 'as loaded'}"


def chunk_duration_s(spec: ModelSpec) -> float:
    return spec.chunk_frames / spec.fps


def _fill_window(
    runner: Runner, state: State, settings: encode.EncodeSettings, deadline: float
) -> list[PastChunk]:
    """Of the longest rung: chunks are cheaper before. A very slow device makes fewer. The first one is
    encoded too, so that the encoder's first time isn't counted. Returns what such a state can be rebuilt
    from.
    """
    spec, past = runner.spec, list[PastChunk]()
    latent_frames = max(rung.window_latent_frames for rung in spec.rungs)
    for number in range(math.ceil(latent_frames / spec.latent_frames_per_chunk)):
        if time.monotonic() < deadline:
            _one_chunk(runner, state, spec.rungs[0], None if number else settings)
            past += [runner.latents(state)] if spec.recent_chunks else []
    recent = max(0, len(past) - spec.recent_chunks)
    return [*past[: min(spec.sink_chunks, recent)], *past[recent:]]


def _rebuild(runner: Runner, past: Sequence[PastChunk], deadline: float) -> None:
    """So that the first state that is lost takes no longer than the next ones. Where there is a place for
    it; whatever is wrong shows when one is.
    """
    if not past or runner.spec.slots == 1 or time.monotonic() >= deadline:
        return
    try:
        at_once(runner.rebuild_in_pieces(0, "", past))
    except Exception as error:  # noqa: BLE001 a model may raise anything
        logger.warning("lost states can't be rebuilt: %s", error)


def _alone(
    runner: Runner, state: State, rung: Rung, settings: encode.EncodeSettings, deadline: float
) -> _Chunk:
    """The quickest of a few counts, since what disturbs a worker at start (other services starting) passes.
    The first chunk shows a changed prompt, so that a user's first change meets no kernel for the first time.
    """
    runner.set_prompt(state, "")  # the same words, since others may have to be encoded elsewhere
    made: list[_Chunk] = []
    while len(made) < _MEASURED_CHUNKS and (not made or time.monotonic() < deadline):
        made.append(_one_chunk(runner, state, rung, settings))
        if _undisturbed(runner) and _told_enough(made):
            break
    steps_s, decode_s, encode_s = zip(*made, strict=True)
    return _Chunk(min(steps_s, key=min), min(decode_s), min(encode_s))


def _told_enough(made: Sequence[_Chunk]) -> bool:
    """On a GPU, which is the worker's alone: two steps that agree, or of short ones two chunks that do."""
    quickest = sorted(made[-1].steps_s)[:2]
    if made[-1].step_s >= _SHORT_S and len(quickest) == 2 and _agree(*quickest):
        return True
    return len(made) > 1 and _agree(*(chunk.step_s for chunk in made[-2:]))


def _undisturbed(runner: Runner) -> bool:
    return runner.device != "cpu"


def _agree(one_s: float, other_s: float) -> bool:
    return max(one_s, other_s) < _ALIKE * min(one_s, other_s)


def _curve(runner: Runner, state: State, rung: Rung, alone_s: float, max_rows: int, deadline: float) -> Curve:
    """Doubles the rows until that gains nothing, `max_rows` or the device's room is reached, or time
    is up.
    """
    points, best_rate, rows = [(1, alone_s)], 1 / max(alone_s, 1e-9), 2
    states, most = [state], min(max_rows, runner.spec.slots or max_rows)
    while rows <= most and time.monotonic() < deadline:
        try:
            states += [runner.twin(state) for _ in range(rows - len(states))]
            step_s = _step_together(runner, states, rung)
            if step_s < _SHORT_S or not _undisturbed(runner):
                step_s = min(step_s, _step_together(runner, states, rung))
        except RuntimeError as error:  # the device's memory, or the model's slots
            logger.info("no more than %d rows together: %s", points[-1][0], error)
            break
        points.append((rows, step_s))
        if rows / max(step_s, 1e-9) < MIN_GAIN * best_rate:
            break
        best_rate, rows = rows / max(step_s, 1e-9), 2 * rows
    return Curve(kind_of(rung), tuple(points))


def _one_chunk(runner: Runner, state: State, rung: Rung, settings: encode.EncodeSettings | None) -> _Chunk:
    """`settings` None: it isn't encoded."""
    forwards = runner.begin_chunk(state, rung.name)
    steps_s = tuple(runner.forward([state]) for _ in range(forwards))
    started = time.perf_counter()
    frames = runner.decode(state)
    decoded = time.perf_counter()
    if settings is not None:
        encode.encode(frames, runner.spec.fps, settings)
    return _Chunk(steps_s, decoded - started, time.perf_counter() - decoded)


def _step_together(runner: Runner, states: list[State], rung: Rung) -> float:
    """The quickest step of one chunk of all."""
    forwards = [runner.begin_chunk(state, rung.name) for state in states]
    step_s = min(runner.forward(states) for _ in range(min(forwards)))
    for state in states:
        runner.decode(state)
    return step_s
