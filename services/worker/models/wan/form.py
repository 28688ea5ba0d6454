"""In which form a forward is computed. All forms compute the same, within rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

ENVIRONMENT = "TURBOSERVE_WAN"
PIECES = ("plain", "eager", "compiled", "triton")
WINDOWS = ("gather", "turned", "slots", "slots8")
_FLAGS = {"on": True, "off": False}


class UnknownForm(ValueError):
    """A setting of the forward's form that isn't known. The message lists those that are."""


@dataclass(frozen=True)
class Form:
    """`pieces`: "plain" is the reference, layer by layer as the modules say; else who computes what lies
    between the products. `window`: "gather" copies keys and values each time; "turned" reads them in place,
    one row with its own graph for every slot; "slots" the same by a kernel that takes any slots; "slots8"
    that in e4m3.
    `attention`, `cross`: torch's way to attention, of the window and of the text. `shape`: which of the
    kernel's shapes, for "slots". `gelu`: fused into its product. `spared`: products that stay in 16 bits
    where the others are in eight, as "o+cross_o".
    """

    pieces: str = "plain"
    window: str = "gather"
    attention: str = "default"
    cross: str = "default"
    fp8: bool = False
    gelu: bool = False
    shape: int = 0
    spared: str = ""

    def __str__(self) -> str:
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


PLAIN = Form()


@dataclass(frozen=True)
class Wishes:
    """What whoever starts the worker insists on; None: what is fastest. `kv`: the ring's numbers. `fp8`: None
    is a rung's own choice, where the device can. `kept`: the folder in which chosen forms are kept for the
    next start, or "off"; None: whoever makes the model says.
    """

    pieces: str | None = None
    window: str | None = None
    attention: str | None = None
    cross: str | None = None
    gelu: bool | None = None
    fp8: bool | None = None
    graphs: bool = True
    kv: str = "model"
    kept: str | None = None

    @property
    def kv_dtype(self) -> torch.dtype | None:
        """None: that of the weights."""
        return torch.float8_e4m3fn if self.kv == "float8_e4m3" else None

    def on(self, form: Form) -> Form:
        forced = {
            f.name: getattr(self, f.name) for f in fields(form) if getattr(self, f.name, None) is not None
        }
        return replace(form, **forced)


def wishes(environment: Mapping[str, str]) -> Wishes:
    """From `TURBOSERVE_WAN="attention=flash graphs=off"`. Raises `UnknownForm`."""
    known = {f.name for f in fields(Wishes)}
    said: dict[str, Any] = {}
    for word in environment.get(ENVIRONMENT, "").split():
        name, _, value = word.partition("=")
        if name not in known or not value:
            raise UnknownForm(f"{ENVIRONMENT}: {word!r}; write name=value with {', '.join(sorted(known))}")
        said[name] = value if name == "kept" else _FLAGS.get(value, value)
    _check("pieces", said.get("pieces"), PIECES)
    _check("window", said.get("window"), WINDOWS)
    _check("kv", said.get("kv"), ("model", "float8_e4m3"))
    for name in ("gelu", "fp8", "graphs"):
        _check(name, said.get(name), (True, False))
    return Wishes(**said)


def _check(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value is not None and value not in known:
        words = ["on" if k is True else "off" if k is False else k for k in known]
        raise UnknownForm(f"{ENVIRONMENT}: {name}={value}; known: {', '.join(words)}")
