"""Settings of one text encoder process."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from shared.settings import Name, ServiceSettings


class TextSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`weights_path`: a folder with the encoder's weights and its tokenizer.json, as published with Wan 2.1
    or in Hugging Face's layout. `encoder`: the name under which workers ask for it. `device`: "auto" (a GPU
    if there is one), or as torch names it. `dtype`: of the weights in memory. `threads`: of the CPU, for one
    prompt. `cache_mib`: memory for prompts encoded lately. `max_waiting`: prompts in line at most; more are
    refused.
    """

    weights_path: str = ""
    encoder: Name = "umt5-xxl"
    device: str = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    cache_mib: Annotated[int, Meta(ge=0, le=65_536)] = 256
    max_waiting: Annotated[int, Meta(ge=1, le=256)] = 64
