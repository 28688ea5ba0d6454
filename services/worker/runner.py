"""The model on its device: the only file of the engine that reaches torch, always on the device thread."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import psutil

from services.worker.encode import Frames
from services.worker.models.in_pieces import InPieces, whole
from services.worker.models.protocol import (
    BlanksAhead,
    Counters,
    Final,
    Memory,
    MidChunk,
    ModelSpec,
    MovesMidChunk,
    Part,
    PastChunk,
    ReadsEmbeddings,
    Rung,
    SessionModel,
    ShowsEarly,
    State,
    TakesPromptsAhead,
    TellsFinal,
    WorksInPieces,
)
from shared.contracts.text import TextEncoded


class NoSuchDevice(ValueError):
    """The device asked for can't be used here. The message names it and says why."""


class Step(Protocol):
    """What the device was told last, on the stream of the steps. Copies on other streams go on."""

    def query(self) -> bool:
        """Whether it is over."""

    def synchronize(self) -> None:
        """Until it is. Raises what went wrong on the device."""


class Runner:
    """Opens, steps and decodes sessions' states. Whatever the model raises passes through."""

    def __init__(self, model: SessionModel, device: str) -> None:
        self.device = device
        self.spec: ModelSpec = model.spec
        self.before_step: Step | None = None
        """While the device is at a step: over once it has done all that it was told before."""
        self._model = model

    @property
    def model(self) -> SessionModel:
        """For whoever tries it out instead of serving it."""
        return self._model

    def warnings(self, prompt: str) -> list[str]:
        """Needs no device: any thread may ask."""
        return list(self._model.prompt_warnings(prompt))

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        """From any thread. Only where the spec names a text encoder. Raises `ValueError`."""
        return cast(ReadsEmbeddings, self._model).learn(prompt, encoded)

    def open(self, seed: int, prompt: str, first_chunk: int) -> State:
        return self._model.open(seed=seed, prompt=prompt, first_chunk=first_chunk)

    def memory(self, state: State) -> Memory:
        return self._model.memory(state)

    def parts(self, state: State) -> Mapping[str, Part]:
        return self._model.parts(state)

    def counters(self, state: State) -> Counters:
        """Between two chunks only."""
        return self._model.counters(state)

    @property
    def moves_mid_chunk(self) -> bool:
        """Whether a session may leave between any two forwards."""
        return hasattr(self._model, "mid_chunk")

    def mid_chunk(self, state: State) -> MidChunk:
        return cast(MovesMidChunk, self._model).mid_chunk(state)

    def unsettled(self, state: State) -> frozenset[str]:
        """Parts that a chunk under way has written or will write. Empty, where the model doesn't tell."""
        if not self.moves_mid_chunk:
            return frozenset()
        return cast(MovesMidChunk, self._model).unsettled(state)

    def final(self, state: State) -> Mapping[str, Sequence[Final]]:
        """Right after a step of it was told: what of its memory won't change any more in this chunk."""
        return cast(TellsFinal, self._model).final(state) if hasattr(self._model, "final") else {}

    def reserve(self) -> State:
        return self._model.reserve()

    def blank(self, state: State) -> Any:
        """Of a state just reserved: the device's event after which its memory may be written. None: after all
        that the device was told.
        """
        if not hasattr(self._model, "blank"):
            return None
        return cast(BlanksAhead, self._model).blank(state)

    def take_over(self, state: State, counters: Counters) -> None:
        self._model.take_over(state, counters)

    def twin(self, state: State) -> State:
        """Another one in a place of its own, for whoever tries the model out. Between two chunks only."""
        twin = self.reserve()
        self.memory(twin)[:] = self.memory(state)
        self.take_over(twin, self.counters(state))
        return twin

    def set_prompt(self, state: State, prompt: str) -> None:
        self._model.set_prompt(state, prompt)

    def begin_chunk(self, state: State, rung: str) -> int:
        """How many steps the chunk takes. `rung` "" is the model's default: its first."""
        return self._model.begin_chunk(state, self._rung(rung))

    def _rung(self, name: str) -> Rung:
        return next(rung for rung in self.spec.rungs if name in {"", rung.name})

    @property
    def takes_prompts_ahead(self) -> bool:
        """Whether a new prompt can be made ready for before its first chunk begins."""
        return hasattr(self._model, "take_prompt")

    @property
    def works_in_pieces(self) -> bool:
        """Whether the model divides what takes longer than a step."""
        return hasattr(self._model, "take_prompt_in_pieces")

    def take_prompt(self, state: State, rung: str) -> InPieces[None]:
        """The one set last."""
        if self.works_in_pieces:
            return cast(WorksInPieces, self._model).take_prompt_in_pieces(state, self._rung(rung))
        return whole(lambda: cast(TakesPromptsAhead, self._model).take_prompt(state, self._rung(rung)))

    def forward(self, states: list[State]) -> float:
        """One step of each. Returns the seconds it took."""
        started = time.perf_counter()
        if (step := self.launch(states)) is not None:
            self.end(step)
        return time.perf_counter() - started

    def launch(self, states: list[State]) -> Step | None:
        """One step of each, which the device may still be at until `end`. None: it is over."""
        return self.tell(lambda: self._model.forward(states))

    def tell(self, work: Callable[[], object]) -> Step | None:
        """Has the device told something, which it may still be at until `end`. None: it is over."""
        before = self.told()
        work()
        self.before_step = before
        return self.told()

    def end(self, step: Step) -> None:
        """Until it is over. Raises what went wrong on the device."""
        try:
            step.synchronize()
        finally:
            self.before_step = None

    def told(self) -> Step | None:
        """All that the device was told up to now. None: it is over."""
        if not self.device.startswith("cuda"):
            return None
        told: Step = sys.modules["torch"].cuda.current_stream(self.device).record_event()
        return told

    def latents(self, state: State) -> PastChunk:
        """Of the chunk decoded last, before the next one begins."""
        return self._model.latents(state)

    def rebuild_in_pieces(self, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        if hasattr(self._model, "rebuild_in_pieces"):
            model = cast(WorksInPieces, self._model)
            return model.rebuild_in_pieces(seed=seed, prompt=prompt, past=past)
        return whole(lambda: self._model.rebuild(seed=seed, prompt=prompt, past=past))

    @property
    def shows_early(self) -> bool:
        """Whether pictures are final before a chunk's last forward."""
        return hasattr(self._model, "pictures_final")

    def pictures_final(self, state: State) -> bool:
        """Whether a chunk under way may be decoded though it has forwards left."""
        return self.shows_early and cast(ShowsEarly, self._model).pictures_final(state)

    def decode(self, state: State) -> Frames:
        return self.decode_later(state)()

    def decode_later(self, state: State) -> Callable[[], Frames]:
        """Where a model can copy its pictures while the device goes on, they are waited for by whoever calls
        the result, on any thread.
        """
        later = getattr(self._model, "decode_later", None)
        if later is None:
            frames = np.asarray(self._model.decode(state))
            return lambda: frames
        arrive = later(state)
        return lambda: np.asarray(arrive())

    def free_bytes(self) -> int:
        """Of the device's memory, with nothing kept for later by torch."""
        if not self.device.startswith("cuda"):
            return int(psutil.virtual_memory().available)
        cuda = sys.modules["torch"].cuda
        cuda.empty_cache()
        return int(cuda.mem_get_info(self.device)[0])


def load(loader: str, name: str, device: str, weights_path: str, geometry: str = "") -> Runner:
    """Import the model's code and weights. `geometry` "": the model's own; else the loader must take one.
    Raises what `loader.load_model` raises; `NoSuchDevice`; ImportError if there is no such loader.
    """
    device = choose_device(device)
    chosen = {"geometry": geometry} if geometry else {}
    load_model = importlib.import_module(loader).load_model
    model = load_model(name, device=device, weights_path=weights_path, **chosen)
    if (torch := sys.modules.get("torch")) is not None:  # models without torch exist
        torch.set_num_threads(1)
    return Runner(model, device)


def choose_device(wanted: str) -> str:
    """As torch names it. Raises `NoSuchDevice`."""
    if wanted == "cpu":
        return wanted
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise NoSuchDevice(f"{wanted} can't be used: {str(error).splitlines()[0]}") from None
    return wanted
