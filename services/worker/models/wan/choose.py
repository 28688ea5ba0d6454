"""Which forms of a forward are fastest here for this model and picture, found out when it is loaded.

Nothing is taken for granted: a form that fails, or that computes something else than the plain one, isn't
used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan.attention import HOPELESS, TOLERANCE, Compare, fastest
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PLAIN, Form, Wishes
from services.worker.models.wan.graphs import Capture, capture_for
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.products import Products, names
from services.worker.models.wan.stepper import Forms
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.transformer import Rows
from services.worker.models.wan.trials import EIGHT_BITS_TOLERANCE, Trials

logger = logging.getLogger(__name__)

_TRIED_SLOTS = 2
_MOST_SLOTS_WITH_GRAPHS = 16


class Chooser:
    """Tries forms on slots of the pool that hold no session yet."""

    def __init__(
        self,
        config: WanConfig,
        swift: Swift,
        kv: Tensor,
        cross: Tensor,
        compare: Compare = fastest,
        capture: Capture | None = None,
    ) -> None:
        """`capture` None: as the device does."""
        self._config, self._swift, self._kv, self._cross = config, swift, kv, cross
        self._device, self._compare = kv.device, compare
        self._capture = capture or capture_for(self._device)
        for slot in range(min(_TRIED_SLOTS, kv.shape[0])):
            for layer in kv[slot]:
                layer.copy_(torch.randn(layer.shape, device=kv.device))
        self._trials = Trials(config, swift, kv.device, cross.dtype, self._capture, compare)
        self._made: dict[tuple[int, Form], Callable[[], Tensor]] = {}  # what was chosen last, still captured
        self.took = self._trials.took
        """What was compared, and how many ms each took."""

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Calls once what launches none of our kernels, while those aren't compiled yet: libraries are
        loaded, plans made. Nothing is timed.
        """
        for work in (*self._trials.torchs_own(), self._uncaptured(1, PLAIN)):
            try:
                work()
            except Exception as error:  # noqa: BLE001 whoever compares is told too
                logger.debug("not called while kernels are compiled: %s", error)

    @torch.inference_mode()
    def forms(self, wishes: Wishes) -> Forms:
        """Of plain products."""
        wishes = self._possible(wishes)
        base = wishes.on(self._base(wishes))
        elsewhere = replace(base, window="gather")
        forced = wishes.pieces is not None or wishes.window is not None
        alone = self._best("one row", 1, list(self._candidates(base, wishes, 1)), forced=forced)
        if self._kv.shape[0] < 2:
            return Forms(alone, elsewhere, elsewhere)
        candidates = list(self._candidates(base, wishes, 2))
        together = self._best("two rows", 2, candidates, forced=forced, first_told=not self._plain_is_slow())
        return Forms(alone, together, elsewhere)

    @torch.inference_mode()
    def work(self, *chosen: Forms) -> bool:
        """Whether forms chosen by an earlier start compute anything here."""
        try:
            return all(
                self._swift.room_for(form) and bool(self._uncaptured(rows, form)().isfinite().all())
                for rows, form in self.served(*chosen)
            )
        except Exception as error:  # noqa: BLE001 a kernel that isn't there says so in many ways
            logger.info("a form chosen before can't be used here: %s", error)
            return False

    def served(self, *chosen: Forms) -> set[tuple[int, Form]]:
        """Rows and form of every kind of forward that follows from them."""
        most = self._kv.shape[0]
        return {
            (min(rows, most), form) for forms in chosen for rows, form in zip((1, 2, 1), forms, strict=True)
        }

    @torch.inference_mode()
    def in_eight_bits(self, forms: Forms, *, forced: bool) -> Forms:
        """The same with fp8 products, where those are faster, or in any case."""
        form, spared = forms.alone, self._trials.spared(forms.alone)
        if set(names(spared)) == set(Products._fields):
            if not forced:
                return forms
            spared = ""
        alone = self._best("fp8", 1, [form, replace(form, fp8=True, spared=spared)], forced=forced)
        return Forms(*(replace(form, fp8=alone.fp8, spared=alone.spared) for form in forms))

    def _base(self, wishes: Wishes) -> Form:
        """What can be chosen apart from the rest."""
        pieces = wishes.pieces or ("triton" if usable(self._device) else "plain")
        if pieces == "plain":
            return PLAIN
        trials = self._trials
        attention = wishes.attention or trials.attention("attention", trials.window_keys)
        cross = wishes.cross or self._trials.attention("cross", self._config.architecture.text_tokens)
        gelu = self._trials.gelu() if wishes.gelu is None else wishes.gelu
        return Form(pieces, "gather", attention, cross, gelu=gelu)

    def _candidates(self, base: Form, wishes: Wishes, rows: int) -> Iterator[Form]:
        """The plain one first: what the others must agree with."""
        yield PLAIN
        if base.pieces == "plain":
            return
        windows: tuple[str, ...] = (
            ("turned", "slots", "gather") if wishes.window is None else (wishes.window,)
        )
        if rows > 1:  # which are read in place by one row alone
            windows = tuple(dict.fromkeys("gather" if w == "turned" else w for w in windows))
        for window in windows:
            form = replace(base, window=window)
            if not self._swift.room_for(form):
                continue
            if wishes.window is None and not self._worth_trying(window):
                continue
            if not window.startswith("slots"):
                yield form
            elif (shape := self._trials.shape(rows, window)) is not None:
                yield replace(form, shape=shape)

    def _worth_trying(self, window: str) -> bool:
        """A graph for every slot is too much where slots are many, as they are where pictures are small."""
        if window == "turned":
            return self._kv.shape[0] <= _MOST_SLOTS_WITH_GRAPHS
        return window != "slots" or self._trials.by_kernel(window)

    def _possible(self, wishes: Wishes) -> Wishes:
        """Without a window that only a kernel reads where there is none for such a model."""
        window = wishes.window or ""
        if not window.startswith("slots") or self._trials.by_kernel(window):
            return wishes
        text = "window=%s can't be had: no kernel for heads of %d on %s"
        logger.warning(text, window, self._config.architecture.head_dim, self._device)
        return replace(wishes, window=None)

    def _plain_is_slow(self) -> bool:
        """So slow for one row that it needn't be timed for more."""
        took = self.took["one row"]
        return str(PLAIN) in took and took[str(PLAIN)] > HOPELESS * min(took.values())

    def _best(
        self, what: str, rows: int, forms: list[Form], *, forced: bool, first_told: bool = True
    ) -> Form:
        """The others' results must agree with the first one's. `forced`: it is chosen only where none of them
        works. Not `first_told`: as `fastest`.
        """
        coarse = any(form.fp8 or form.window == "slots8" for form in forms)
        tolerance = EIGHT_BITS_TOLERANCE if coarse else TOLERANCE
        made = {form: self._made.get((rows, form)) or self.forward(rows, form) for form in forms}
        if not first_told:
            made[forms[0]] = self._uncaptured(rows, forms[0])
        work = {str(form): way for form, way in made.items()}
        name, took = self._compare(work, self._device, tolerance, first_told=first_told)
        self.took[what] = took
        chosen = next(form for form in forms if str(form) == name)
        if forced and (working := [form for form in forms[1:] if str(form) in took]):
            chosen = min(working, key=lambda form: took[str(form)])
        self._made = {(rows, chosen): made[chosen]} if rows == 1 else self._made
        self._tell(what, forms, took)
        return chosen

    def _tell(self, what: str, forms: list[Form], took: Mapping[str, float]) -> None:
        if self._device.type == "meta":
            return
        logger.info("%s: %s", what, ", ".join(f"{n}: {ms:.2f} ms" for n, ms in took.items()))
        if len(forms) > 1 and not any(str(form) in took for form in forms[1:]):
            logger.warning("%s: nothing else of what was tried works here than %s", what, forms[0])

    def forward(self, rows: int, form: Form) -> Callable[[], Tensor]:
        """A forward of full windows at rest in the first slots, captured at its first call."""
        work = self._work(rows, form)
        captured: list[tuple[Callable[[], None], Tensor]] = []

        def run() -> Tensor:
            if not captured:
                self._make_windows(rows, form)
                captured.append(self._capture(work, warm=False))
            replay, out = captured[0]
            replay()
            return out

        return run

    def _uncaptured(self, rows: int, form: Form) -> Callable[[], Tensor]:
        """The same for a few calls, for which capturing would take longer."""
        work = self._work(rows, form)

        def run() -> Tensor:
            self._make_windows(rows, form)
            return work()

        return run

    def _work(self, rows: int, form: Form) -> Callable[[], Tensor]:
        """The forward alone: what it reads in place has to be there."""
        inputs = self._rows(rows, form)
        geometry = self._config.geometry
        shape = (rows, geometry.chunk_latent_frames, *geometry.latent_shape)
        latents = draw(shape, 0, 0).to(self._device, self._cross.dtype)
        levels = torch.full(shape[:2], 0.5, device=self._device)
        return lambda: self._swift(latents, levels, inputs, form)

    def _make_windows(self, rows: int, form: Form) -> None:
        for slot in range(rows if form.window != "gather" else 0):
            alone = self._rows(1, form)
            one = replace(alone, slots=alone.slots + slot, slot=slot)
            self._swift.make_window(slot, tuple(range(self._frames)), one, form)

    @property
    def _frames(self) -> int:
        return self._config.recipe.window_frames

    def _rows(self, rows: int, form: Form) -> Rows:
        slots = torch.arange(rows, device=self._device)
        places = torch.arange(self._frames, device=self._device).expand(rows, -1).contiguous()
        slot = 0 if form.window == "turned" else None
        return Rows(self._kv, self._cross, slots, places, self._config.geometry.chunk_latent_frames, slot)
