"""Embeddings of the prompts asked for last."""

from __future__ import annotations

from collections import OrderedDict

from shared.contracts.text import TextEncoded


class Cache:
    """By cleaned prompt, the least recently used leaving first. Of one encoder: its digest is in every
    entry.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, TextEncoded] = OrderedDict()
        self.size_bytes = 0

    def get(self, prompt: str) -> TextEncoded | None:
        if prompt in self._entries:
            self._entries.move_to_end(prompt)
        return self._entries.get(prompt)

    def put(self, prompt: str, encoded: TextEncoded) -> None:
        self._forget(prompt)
        self._entries[prompt] = encoded
        self.size_bytes += _bytes(prompt, encoded)
        while self.size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, prompt: str) -> None:
        entry = self._entries.pop(prompt, None)
        if entry is not None:
            self.size_bytes -= _bytes(prompt, entry)


def _bytes(prompt: str, encoded: TextEncoded) -> int:
    return len(encoded.embedding) + len(prompt.encode())
