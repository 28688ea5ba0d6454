"""From a prompt to what cross-attention reads."""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan.config import Architecture
from shared.contracts.text import TextEncoded

UMT5 = "umt5-xxl"


class TextEncoder(Protocol):
    """Called from the device thread when a session opens and when its prompt changes. `name`: under which a
    service does the encoding; "": it is done here.
    """

    @property
    def name(self) -> str: ...

    def knows(self, prompt: str) -> bool: ...

    def encode(self, prompt: str) -> Tensor:
        """[words, text_dim], at most text_tokens words, without padding, on any device."""


class StandInEncoder:
    """Unit normals for every word, the same for the same word: shapes and costs of a real encoder, no
    meaning.

    Used with random weights and for trials only; published weights need umT5.
    """

    name = ""

    def __init__(self, architecture: Architecture) -> None:
        self._words, self._dim = architecture.text_tokens, architecture.text_dim

    def knows(self, prompt: str) -> bool:  # noqa: ARG002
        return True

    def encode(self, prompt: str) -> Tensor:
        words = prompt.casefold().split()[: self._words] or [""]
        seeds = [int.from_bytes(blake2b(word.encode(), digest_size=7).digest(), "big") for word in words]
        return torch.stack([draw((self._dim,), seed, 0) for seed in seeds])


class EncodedElsewhere:
    """Embeddings by umT5 that came over the bus, each known as long as somebody keeps it."""

    name = UMT5

    def __init__(self, architecture: Architecture) -> None:
        self._dim = architecture.text_dim
        self._known: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def learn(self, prompt: str, encoded: TextEncoded) -> Tensor:
        """Raises `ValueError`."""
        if (encoded.dim, encoded.dtype) != (self._dim, "bfloat16"):
            raise ValueError(
                f"the text encoder gives {encoded.dim} numbers a word, of {encoded.dtype}; this model reads"
                f" {self._dim} of bfloat16: start `turboserve text` with its encoder"
            )
        expected = encoded.words * self._dim * torch.bfloat16.itemsize
        if not expected or len(encoded.embedding) != expected:
            raise ValueError(
                f"the text encoder sent {len(encoded.embedding)} bytes for {encoded.words} words instead of"
                f" {expected}: it and this worker are of different versions"
            )
        numbers = torch.frombuffer(bytearray(encoded.embedding), dtype=torch.bfloat16)
        if not torch.isfinite(numbers).all():
            raise ValueError("the text encoder's embedding holds NaN or infinity: check its weights")
        return self._known.setdefault(prompt, numbers.view(encoded.words, encoded.dim))

    def knows(self, prompt: str) -> bool:
        return not prompt or prompt in self._known

    def encode(self, prompt: str) -> Tensor:
        """Nothing to read for an empty prompt, as before a worker's first session. Raises `LookupError`."""
        if not prompt:
            return torch.zeros(1, self._dim)
        known = self._known.get(prompt)
        if known is None:
            raise LookupError(f"the prompt {prompt[:80]!r} was not encoded before it was to show")
        return known
