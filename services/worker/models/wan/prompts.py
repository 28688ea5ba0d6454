"""What sessions are told to show: from words to the keys and values that every forward reads."""

from __future__ import annotations

import torch

from services.worker.models.slots import Pool
from services.worker.models.wan.noise_ahead import sent
from services.worker.models.wan.session import CROSS, State
from services.worker.models.wan.text import EncodedElsewhere, StandInEncoder, TextEncoder
from services.worker.models.wan.transformer import Transformer
from shared.contracts.text import TextEncoded


class Prompts:
    """Device thread only, but for `learn`."""

    def __init__(self, encoder: TextEncoder, transformer: Transformer, pool: Pool) -> None:
        self._encoder, self._transformer = encoder, transformer
        self._text, self._cross = pool["text"], pool["cross"]

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        """Raises `ValueError`."""
        assert isinstance(self._encoder, EncodedElsewhere), "spec.text_encoder says who learns"
        return self._encoder.learn(prompt, encoded)

    def read(self, encoder: StandInEncoder | EncodedElsewhere) -> None:
        """From now on by this one."""
        self._encoder = encoder

    def knows(self, prompt: str) -> bool:
        return self._encoder.knows(prompt)

    @torch.inference_mode()
    def set(self, state: State, prompt: str) -> None:
        """Shows once it is taken. Words beyond those that the text has places for are unread."""
        text = self._text[state.slot]
        words = self._encoder.encode(prompt)[: len(text)]
        text[: len(words)] = sent(words, text.device).to(text.dtype)
        text[len(words) :] = 0
        state.prompt, state.new_text = prompt, True
        state.versions.wrote([CROSS])

    def read_out(self, state: State) -> None:
        """The keys and values of the prompt that was set. It isn't `shown` yet."""
        self._cross[state.slot] = self._transformer.text_kv(self._text[state.slot])
        state.versions.wrote([CROSS])

    def take(self, state: State) -> None:
        """Once: the prompt that was set is shown."""
        if state.new_text:
            self.read_out(state)
            self.taken(state)

    def taken(self, state: State) -> None:
        """All that it needed is done."""
        state.shown, state.new_text = state.prompt, False
