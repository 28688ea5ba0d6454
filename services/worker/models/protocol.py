"""The one protocol by which a model joins the worker.

A model steps *states*: one session's copy each. What is large of a state (K/V ring, cross-attention K/V,
decoder cache, clean latents) is its *memory*: one contiguous piece of the device, allocated before the first
session opens; what is small are its *counters*. Rows of one `forward` may differ in prompt, ring position and
denoise step. All calls come from the device thread, except `prompt_warnings`, which any thread may call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from services.worker.models.in_pieces import InPieces
from shared.contracts.text import TextEncoded

State = Any
"""Opaque to everybody but its model. Dropping it frees all it held."""

Memory = Any
"""A contiguous uint8 vector: a tensor, or (of a model without torch) a NumPy array."""

Counters = Mapping[str, Any]
"""Plain values that MessagePack knows: numbers, strings, bytes, lists and maps of them. A few KB at most."""


class Part(NamedTuple):
    """A piece of a state's memory, by when it changes. `version` is another whenever its bytes are; `spans`
    are its [start, end) bytes, in order.
    """

    version: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PastChunk:
    """What `rebuild` makes a state of. `origin`: the chunk with which the picture began. `latents`: in host
    memory.
    """

    index: int
    origin: int
    prompt: str
    latents: Any


@dataclass(frozen=True)
class Rung:
    """A named quality. `steps`: denoise forwards a chunk, the clean pass not counted. `precision`: of the
    products, "" being the model's own.
    """

    name: str
    steps: int
    window_latent_frames: int
    kv_dtype: str
    precision: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """What a worker needs to know of its model. `rungs[0]` is the default one, and `steps` its steps.

    `architecture`: with everything that decides what the bytes of a state mean (network, decoder, window,
    sinks); `dtype`: of its numbers. `state_bytes`: of a state's memory, the same for all; what only a chunk
    under way needs is not counted.

    `batch_tolerance_levels`: by how much (of 255) a pixel of one chunk may differ when it is made, from the
    same state, in a batch of another size; in one of the same size it may not at all.

    `slots`: how many states there are places for, allocated at start. None: each state has memory of its own.

    `recent_chunks`, `sink_chunks`: `rebuild` wants so many of the newest, and so many from the picture's
    beginning. 0, 0: it can't be rebuilt.

    `text_encoder`: the one whose embeddings it reads; it is a `ReadsEmbeddings` then. "": it reads prompts.
    """

    name: str
    width: int
    height: int
    fps: float
    first_chunk_frames: int
    chunk_frames: int
    latent_frames_per_chunk: int
    steps: int
    rungs: tuple[Rung, ...]
    max_prompt_chars: int
    weights_digest: str
    state_bytes: int
    architecture: str
    dtype: str
    batch_tolerance_levels: float = 1.0
    slots: int | None = None
    recent_chunks: int = 0
    sink_chunks: int = 0
    text_encoder: str = ""


class ReadsEmbeddings(Protocol):
    """What a `SessionModel` with a `text_encoder` is besides: a prompt has been learnt before a state is
    opened, rebuilt or told to show it. An empty prompt needs no embedding.
    """

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        """The prompt is known as long as somebody keeps what this returns. From any thread. Raises
        `ValueError` if the embedding isn't one that the model can read.
        """

    def read_stand_ins(self) -> None:
        """From now on take any prompt, with an embedding that means nothing: for trials without an
        encoder.
        """


class Final(NamedTuple):
    """The bytes [start, end) of a state's memory. `after`: the CUDA event after which they are final. None:
    they are.
    """

    start: int
    end: int
    after: Any = None


class MidChunk(NamedTuple):
    """Between two forwards of a chunk. `counters`: with how far the chunk is. `void`: parts whose bytes mean
    nothing now, since the chunk's forwards to come write them before they read them.
    """

    counters: Counters
    void: frozenset[str]


class MovesMidChunk(Protocol):
    """What a `SessionModel` may be besides: its sessions can leave between any two forwards, the present
    latents being in the memory too. Every part has another version after each forward that writes it.
    """

    def mid_chunk(self, state: State) -> MidChunk:
        """Between two forwards of a chunk, which goes on as if nobody had asked. A state that takes over
        these counters, and all parts but the void ones, goes on with that chunk.
        """

    def unsettled(self, state: State) -> frozenset[str]:
        """At any time: the parts that the chunk under way has written or will write, its decode included if
        that has begun. All others have been as they are since before its first forward. Empty: none is under
        way.
        """


class TellsFinal(Protocol):
    """What a `SessionModel` may be besides: what a forward makes for chunks to come can be copied while that
    forward still runs.
    """

    def final(self, state: State) -> Mapping[str, Sequence[Final]]:
        """Right after a `forward` of it was told, and before anything else is: of the parts that it gave
        another version, those that the chunk's forwards to come leave as they are; all of a part's spans, cut
        as its bytes become final. Empty: none. Void if that forward fails on the device, or the chunk is
        begun again.
        """


class BlanksAhead(Protocol):
    """What a `SessionModel` may be besides: a state it reserves can be filled before the device has done all
    that it was told for others.
    """

    def blank(self, state: State) -> Any:
        """Of a reserved state for which nothing was told yet: the CUDA event after which its memory may be
        written. None: after all that the device was told.
        """


class ShowsEarly(Protocol):
    """What a `SessionModel` may be besides: a chunk's pictures are final before its last forwards, which only
    make ready what later chunks read. So they reach their viewers while those are made.
    """

    def pictures_final(self, state: State) -> bool:
        """Of a chunk under way: whether no forward that is left changes its pictures. Then it may be decoded
        now, and `latents` are its own; the forwards left follow as if nothing had been, and with the last of
        them the state moves on.
        """


class TakesPromptsAhead(Protocol):
    """What a `SessionModel` may be besides: what a new prompt costs before its first chunk can be made while
    that chunk may not begin yet.
    """

    def take_prompt(self, state: State, rung: Rung) -> None:
        """Between two chunks, with a prompt set that no chunk shows yet. `rung`: of the next chunk, which
        will be what it would have been without this.
        """


class WorksInPieces(Protocol):
    """What a `SessionModel` may be besides: what takes longer than a step is done piece by piece, each of
    about a step's time at most. Between two pieces the worker may do anything to other states, steps
    included, and what comes out is the same, bit for bit.
    """

    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        """As `rebuild`. The state belongs to nobody before the last piece; closed earlier, nothing is left of
        it, and its place is free.
        """

    def take_prompt_in_pieces(self, state: State, rung: Rung) -> InPieces[None]:
        """As `take_prompt`, of a model that takes prompts ahead. Between two pieces, and after the last one
        that is wanted, the state is whole: it may be saved, carried, told another prompt, or begin its chunk,
        which then does all that is left.
        """


class SessionModel(Protocol):
    @property
    def spec(self) -> ModelSpec: ...

    def prompt_warnings(self, prompt: str) -> Sequence[str]:
        """What of `prompt` the model doesn't understand, in words. Lexical, cheap, without a device."""

    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        """A fresh state. With `first_chunk` > 0 the picture starts anew, but indices and noise go on from
        there: for a session whose former copy was lost. Raises `RuntimeError` where no slot is free.
        """

    def set_prompt(self, state: State, prompt: str) -> None:
        """Shows in the next chunk begun."""

    def begin_chunk(self, state: State, rung: Rung) -> int:
        """Draw the noise, a function of (seed, chunk, step). Returns how many forwards the chunk takes.

        With a chunk under way that isn't decoded: that chunk again from its beginning, with the newest
        prompt, as if it had never been begun.
        """

    def forward(self, states: Sequence[State]) -> None:
        """One denoise step or clean pass of each state's chunk. Rows of one call agree in what of their rungs
        shapes a forward: window and K/V dtype. If it raises, no state has moved on.
        """

    def decode(self, state: State) -> Any:
        """The chunk, after its last forward, as uint8 [frames, height, width, 3] on the CPU; the state moves
        on.
        """

    # Suspending and moving: between two chunks a state is its memory and its counters, bit for bit.

    def memory(self, state: State) -> Memory:
        """All of it, `state_bytes` long: a view, so that it can be read, and written before `take_over`."""

    def parts(self, state: State) -> Mapping[str, Part]:
        """Its memory cut into parts that don't overlap and leave nothing out but padding. At any time, also
        with a chunk under way: whatever that chunk has written or will write shows another version once it is
        over.
        """

    def counters(self, state: State) -> Counters:
        """Between two chunks only."""

    def reserve(self) -> State:
        """A state without content, whose memory is to be filled. Raises as `open` does."""

    def take_over(self, state: State, counters: Counters) -> None:
        """The reserved state's memory now holds what that of the state with these counters held: go on as
        that would have, bit for bit. What was computed from the memory and kept beside it is void.
        """

    # The cold tier.

    def latents(self, state: State) -> PastChunk:
        """Of the chunk decoded last, before the next one begins. Where `recent_chunks` isn't 0."""

    def rebuild(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> State:
        """A state that goes on after the newest of `past` much as the lost one would have, though not bit for
        bit.

        `past`: of one origin, oldest first: the sink's, then the newest without a gap, as many of both as
        there are or the spec asks for. `prompt`: for the next chunk.
        """
