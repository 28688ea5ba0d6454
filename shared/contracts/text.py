"""What workers and text encoders say to each other."""

from __future__ import annotations

import msgspec


class EncodeText(msgspec.Struct, frozen=True):
    """A worker to any responder of the encoder it needs (queue group): what does cross-attention read of
    `prompt`? After `deadline_at` nobody waits for it any more.
    """

    prompt: str
    deadline_at: float


class TextEncoded(msgspec.Struct, frozen=True):
    """`embedding`: `words` × `dim` numbers of `dtype` ("bfloat16"), word by word, little-endian, without
    padding: at most 512 × 4096 × 2 bytes = 4 MiB, for which the broker's max_payload has to leave room.

    `digest`: of weights and tokenizer; encoders that agree in it encode alike. `cut`: the prompt had more
    words than the encoder reads, the last ones are left out.
    """

    words: int
    dim: int
    dtype: str
    embedding: bytes
    digest: str
    cut: bool = False
