"""One forward of several sessions: in which form, captured or not, and what becomes of the latents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from services.worker.models.in_pieces import InPieces
from services.worker.models.slots import Pool
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PLAIN, Form
from services.worker.models.wan.graphs import Graphs, Inputs
from services.worker.models.wan.marks import marks_for
from services.worker.models.wan.noise_ahead import NoiseAhead, pinned
from services.worker.models.wan.passes import Pass, chunk_passes
from services.worker.models.wan.session import State
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.transformer import Rows

_OVER = object()


class Forms(NamedTuple):
    """How a forward is computed: of one row, of more, and where its window can't be read in place."""

    alone: Form = PLAIN
    together: Form = PLAIN
    elsewhere: Form = PLAIN

    def of(self, rows: int, *, in_place: bool) -> Form:
        form = self.alone if rows == 1 else self.together
        return form if in_place or form.window == "gather" else self.elsewhere


class _Job(NamedTuple):
    """A forward's shape. `slot`: of a form that has a graph per slot."""

    rows: int
    fed: int
    seen: int
    form: Form
    slot: int | None


class Stepper:
    """Device thread only. `graphs` None: everything runs uncaptured. `compared`: how `forms` were chosen, in
    ms by what was compared; empty where they weren't.
    """

    def __init__(
        self, config: WanConfig, swift: Swift, pool: Pool, noise: NoiseAhead, graphs: Graphs | None
    ) -> None:
        self._config, self._swift, self._pool = config, swift, pool
        self._noise, self._graphs = noise, graphs
        self._steady = _steady_shapes(config)
        self._kv, self._cross = pool["kv"], pool["cross"]
        self._device = self._kv.device
        swift.marks = marks_for(self._device, config.architecture.layers)
        self.forms, self.fp8_forms = Forms(), Forms()
        self.compared: dict[str, dict[str, float]] = {}

    def forget(self, state: State) -> None:
        """Its slot's content may have come from elsewhere: at the beginning of every chunk."""
        self._swift.forget(state.slot)

    @torch.inference_mode()
    def step(self, states: Sequence[State], latents: Sequence[Tensor]) -> Tensor:
        """One forward of each, all alike, of `latents` [fed, 16, h, w]; returns the next latents of all.

        Those of a pass that doesn't denoise are the same as before.
        """
        passes = [state.passes[0] for state in states]
        job = self._job(states, passes, fp8=states[0].fp8)
        with self._current():
            self._make_windows(job, states, passes)
            made = self._made(job, self._inputs(states, passes, latents))
            self._mark(states, passes)
            return made

    def _made(self, job: _Job, inputs: Inputs) -> Tensor:
        if not self._captured(job, inputs):
            return self._compute(job, inputs)
        assert self._graphs is not None
        return self._graphs.run(job, inputs).clone()

    def _mark(self, states: Sequence[State], passes: Sequence[Pass]) -> None:
        """For those who may ask how far this forward is: a pass that denoises is gone over by the next."""
        marks = self._swift.marks
        lasting = [
            state
            for state, each in zip(states, passes, strict=True)
            if not each.denoises or len(state.passes) == 1
        ]
        taken = marks.taken() if marks is not None and lasting else ()
        for state in lasting:
            state.marks = taken

    @torch.inference_mode()
    def in_pieces(
        self, state: State, following: Pass, latents: Tensor, fp8: bool, layers: int
    ) -> InPieces[None]:
        """A forward of one, uncaptured, that makes nothing but keys and values; so many layers a piece."""
        forward = self._in_pieces(state, following, latents, fp8=fp8, layers=layers)
        while True:
            with self._current():
                if next(forward, _OVER) is _OVER:
                    return
            yield

    def _in_pieces(
        self, state: State, following: Pass, latents: Tensor, *, fp8: bool, layers: int
    ) -> Iterator[None]:
        job = self._job([state], [following], fp8=fp8)
        self._make_windows(job, [state], [following])
        inputs = self._inputs([state], [following], [latents])
        rows, levels = self._rows_of(job, inputs), inputs.mix[:, :1].expand(-1, job.fed)
        yield from self._swift.in_pieces(inputs.latents, levels, rows, job.form, layers)

    def _current(self) -> contextlib.AbstractContextManager[object]:
        """Kernels that aren't torch's own go to the thread's present device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()

    def _job(self, states: Sequence[State], passes: Sequence[Pass], *, fp8: bool) -> _Job:
        fed, seen = passes[0].shape
        in_place = not passes[0].from_ring and all(set(p.seen) == set(range(seen)) for p in passes)
        forms = self.fp8_forms if fp8 else self.forms
        form = forms.of(len(states), in_place=in_place)
        return _Job(len(states), fed, seen, form, states[0].slot if form.window == "turned" else None)

    def _make_windows(self, job: _Job, states: Sequence[State], passes: Sequence[Pass]) -> None:
        """What a form reads in place, made where it isn't there; another form's writes make it void."""
        for state, each in zip(states, passes, strict=True):
            if job.form.window == "gather":
                self._swift.forget(state.slot)
                continue
            self._swift.make_window(state.slot, each.seen, self._rows(state.slot, each), job.form)

    def _rows(self, slot: int, each: Pass) -> Rows:
        slots = pinned([slot], torch.int64, self._device)
        places = pinned([list(each.seen)], torch.int64, self._device)
        return Rows(self._kv, self._cross, slots, places, each.count, slot)

    def _inputs(self, states: Sequence[State], passes: Sequence[Pass], latents: Sequence[Tensor]) -> Inputs:
        mix = [[p.level, 1 - p.next_level, p.next_level] for p in passes]
        noise = torch.zeros(len(states), *latents[0].shape, device=self._device)
        for row, (state, done) in enumerate(zip(states, passes, strict=True)):
            if done.next_level:
                noise[row].copy_(self._noise.take(state.seed, state.chunk, done.step + 1), non_blocking=True)
        return Inputs(
            torch.stack(list(latents)),
            noise,
            pinned(mix, torch.float32, self._device),
            pinned([state.slot for state in states], torch.int64, self._device),
            pinned([list(p.seen) for p in passes], torch.int64, self._device),
        )

    def _compute(self, job: _Job, inputs: Inputs) -> Tensor:
        """The clean picture lies `level` along the velocity; fresh noise takes it to the next level."""
        rows = self._rows_of(job, inputs)
        level, keep, renew = inputs.mix[..., None, None, None, None].unbind(1)
        levels = inputs.mix[:, :1].expand(-1, job.fed)
        velocity = self._swift(inputs.latents, levels, rows, job.form)
        clean = inputs.latents.float() - level * velocity.float()
        return (keep * clean + renew * inputs.noise).to(inputs.latents.dtype)

    def _rows_of(self, job: _Job, inputs: Inputs) -> Rows:
        return Rows(self._kv, self._cross, inputs.slots, inputs.places, job.fed, job.slot)

    def _captured(self, job: _Job, inputs: Inputs) -> bool:
        """Whether there is a graph; one of a steady shape is made at its first use, for all slots at once."""
        if self._graphs is None or (job.fed, job.seen) not in self._steady:
            return False
        if job not in self._graphs:
            self._capture(job, inputs)
        return job in self._graphs

    def _capture(self, job: _Job, inputs: Inputs) -> None:
        """With the forward's own inputs, since the warm-up writes what it is going to write; other slots'
        graphs need no warm-up, so that nothing of theirs is touched.
        """
        assert self._graphs is not None
        slots = [job.slot, *range(self._pool.slots)] if job.slot is not None else [None]
        for number, slot in enumerate(dict.fromkeys(slots)):
            each = job._replace(slot=slot)
            self._graphs.capture(each, inputs, partial(self._compute, each), warm=number > 0)


def _steady_shapes(config: WanConfig) -> frozenset[tuple[int, int]]:
    """Of the forwards of a chunk once the window is full."""
    count = config.geometry.chunk_latent_frames
    start = -(-2 * config.recipe.window_frames // count) * count
    return frozenset(each.shape for each in chunk_passes(config.recipe, start, count))
