"""The models a worker can serve, by name. torch is imported only when one is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from services.worker.models.protocol import SessionModel

MODELS = {
    "sprites": "services.worker.models.sprites.model",
    "wan2.1-t2v-1.3b": "services.worker.models.wan.t2v_1_3b",
    "wan2.1-t2v-14b": "services.worker.models.wan.t2v_14b",
}
"""Name → module with `load(device, weights_path) -> SessionModel`; `weights_path` "": the shipped weights."""


class UnknownModel(ValueError):
    """No model of that name. The message lists the known ones."""


class WeightsError(ValueError):
    """A weights file that can't be used. The message names the file, what was expected and what to do."""


def load_model(name: str, device: str = "cpu", weights_path: str = "") -> SessionModel:
    """Raises `UnknownModel` or `WeightsError`."""
    if name not in MODELS:
        raise UnknownModel(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    return cast(SessionModel, import_module(MODELS[name]).load(device, weights_path))
