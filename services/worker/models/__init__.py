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


GEOMETRIES = {
    "wan2.1-t2v-1.3b": "services.worker.models.wan.config",
    "wan2.1-t2v-14b": "services.worker.models.wan.config",
}
"""Models whose picture has a size to choose: name → module with `geometry_of(text)`."""


class UnknownModel(ValueError):
    """No model of that name. The message lists the known ones."""


class WeightsError(ValueError):
    """A weights file that can't be used. The message names the file, what was expected and what to do."""


class GeometryError(ValueError):
    """A picture or window that a model can't make. The message says which and what would do."""


def load_model(name: str, device: str = "cpu", weights_path: str = "", geometry: str = "") -> SessionModel:
    """`geometry` "": the model's own. Raises `UnknownModel`, `WeightsError` or `GeometryError`."""
    if name not in MODELS:
        raise UnknownModel(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    load = import_module(MODELS[name]).load
    if not geometry:
        return cast(SessionModel, load(device, weights_path))
    if name not in GEOMETRIES:
        raise GeometryError(f"{name} has one picture size; {', '.join(sorted(GEOMETRIES))} let you choose")
    chosen = import_module(GEOMETRIES[name]).geometry_of(geometry)
    return cast(SessionModel, load(device, weights_path, chosen))
