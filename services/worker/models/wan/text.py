"""From a prompt to what cross-attention reads."""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan.config import Architecture


class TextEncoder(Protocol):
    """Called from the device thread when a session opens and when its prompt changes."""

    def encode(self, prompt: str) -> Tensor:
        """[words, text_dim], at most text_tokens words, without padding, on any device."""


class StandInEncoder:
    """Unit normals for every word, the same for the same word: shapes and costs of a real encoder, no
    meaning.

    Used with random weights only; published weights need umT5.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._words, self._dim = architecture.text_tokens, architecture.text_dim

    def encode(self, prompt: str) -> Tensor:
        words = prompt.casefold().split()[: self._words] or [""]
        seeds = [int.from_bytes(blake2b(word.encode(), digest_size=7).digest(), "big") for word in words]
        return torch.stack([draw((self._dim,), seed, 0) for seed in seeds])
