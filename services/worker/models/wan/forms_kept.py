"""The forms chosen for this model on this device, kept for the next start: comparing them takes seconds, and
nothing that it depends on has changed. What can't be read is only a reason to compare again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec
import torch

from services.worker.models.wan.attention import ATTENTIONS
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PIECES, WINDOWS, Form, Wishes
from services.worker.models.wan.host_lock import host_lock
from services.worker.models.wan.products import Products, names
from services.worker.models.wan.stepper import Forms

logger = logging.getLogger(__name__)

OFF = "off"
_MOST_BYTES = 1 << 20


class Choice(msgspec.Struct, frozen=True):
    """`fp8_forms`: of rungs with products in eight bits. `compared`: ms, by what was compared."""

    forms: Forms
    fp8_forms: Forms
    compared: dict[str, dict[str, float]] = {}


class _File(msgspec.Struct, frozen=True):
    key: dict[str, str]
    choice: Choice


class KeptForms:
    """`key`: all that the choice depends on."""

    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        self._key = dict(key)
        name = hashlib.sha256(msgspec.json.encode(sorted(self._key.items()))).hexdigest()[:24]
        self.path = folder / f"wan-forms-{name}.json"

    def read(self) -> Choice | None:
        """None: nothing is kept, or nothing that can be used."""
        try:
            with self.path.open("rb") as file:
                kept = msgspec.json.decode(file.read(_MOST_BYTES), type=_File)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self.ignored(str(error))
            return None
        if kept.key != self._key:
            self.ignored("it is of another device, model or version")
            return None
        if not all(_known(form) for form in (*kept.choice.forms, *kept.choice.fp8_forms)):
            self.ignored("it names forms that there aren't")
            return None
        return kept.choice

    @contextlib.contextmanager
    def alone(self, deadline_s: float) -> Iterator[None]:
        """While one worker of this host compares, the others wait for what it keeps, up to the deadline."""
        with host_lock(self.path.with_suffix(".lock"), deadline_s):
            yield

    def ignored(self, reason: str) -> None:
        logger.warning("%s is ignored, and forms are compared again: %s", self.path, reason)

    def write(self, choice: Choice) -> None:
        """Other workers may write the same at the same time."""
        content = msgspec.json.format(msgspec.json.encode(_File(self._key, choice)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.path.parent, prefix=self.path.stem, delete=False) as unfinished:
                unfinished.write(content)
            Path(unfinished.name).replace(self.path)
        except OSError as error:
            logger.warning("forms aren't kept for the next start, which will compare them again: %s", error)


def default_folder() -> str:
    """The user's own, for what can be made again; "off" for a user without one."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return str(Path(base) / "turboserve")
    try:
        return str(Path.home() / ".cache" / "turboserve")
    except RuntimeError:
        return OFF


def key_of(config: WanConfig, wishes: Wishes, kv: torch.Tensor, dtype: torch.dtype) -> dict[str, str]:
    """`kv`: of the pool. `dtype`: of the weights."""
    properties = torch.cuda.get_device_properties(kv.device) if kv.is_cuda else None
    return {
        "device": f"{properties.name}, {properties.total_memory}" if properties else "cpu",
        "torch": str(torch.__version__),  # a class of its own
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": _version("triton"),
        "model": repr(config),
        "numbers": f"{dtype}, K/V {kv.dtype}",
        "slots": str(kv.shape[0]),
        "wishes": repr(replace(wishes, kept=None)),
        "code": _digest_of_code(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _digest_of_code() -> str:
    """Of everything that computes or chooses forms."""
    sum_ = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        sum_.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return sum_.hexdigest()


def _known(form: Form) -> bool:
    return (
        form.pieces in PIECES
        and form.window in WINDOWS
        and {form.attention, form.cross} <= set(ATTENTIONS)
        and form.shape in range(4)
        and set(names(form.spared)) <= set(Products._fields)
    )
