"""Whether a checkpoint fits a preset, and what hinders it: for `turboserve model check PATH`.

Names and shapes come from the files' headers, values are read piece by piece: no file is loaded whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from services.worker.models import WeightsError
from services.worker.models.wan.checkpoint import TEXT_TABLES, Checkpoint, Tensors, files_in
from services.worker.models.wan.config import ARCHITECTURES, Architecture
from services.worker.models.wan.loading import (
    Differences,
    decoder_differences,
    differences,
    foreign_to,
    low_rank_updates,
    published_shapes,
    size,
    some,
)
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.unread import Pieces, Unread, open_unread, whole
from services.worker.models.wan.vae import VaeDecoder

TEXT_LAYERS = 24
"""Of umT5-xxl's encoder, with which every Wan 2.1 was trained."""
_DECODERS = {"vae": VaeDecoder, "taehv": TaehvDecoder}
_SAME = Differences([], [], [])


@dataclass(frozen=True)
class Report:
    """What `check` found in one file, or in the files of one index.

    `kind`: as a `Checkpoint`'s, or "unreadable". `architecture`: the preset it fits or nearly fits, "" where
    there is none. `dtypes`: the numbers' types. `missing`, `unknown` and `spoilt` (with NaN or infinity) are
    names of tensors, `reshaped` says of each which shape it has and should have, `other` is in whole words.
    """

    path: str
    kind: str
    layout: str = ""
    architecture: str = ""
    dtypes: tuple[str, ...] = ()
    parameters: int = 0
    size_bytes: int = 0
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    spoilt: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return (
            *self.other,
            *Differences(list(self.missing), list(self.unknown), list(self.reshaped)).told(),
            *(f"{name} holds NaN or infinity" for name in self.spoilt),
        )

    @property
    def fits(self) -> bool:
        return not self.problems


def check(path: Path, preset: Architecture | None = None) -> tuple[Report, ...]:
    """What each file at `path` (one file or a folder) is and what hinders its use. `preset` None: any may
    fit. Raises `WeightsError` if there is no weights file at all.
    """
    return tuple(_looked_at(file, preset) for file in (files_in(path) if path.is_dir() else [path]))


def lacks(reports: Sequence[Report]) -> list[str]:
    """What a folder of these files lacks, or has too much of, to be served from."""
    kinds = [report.kind for report in reports]
    found = []
    if "transformer" not in kinds:
        found.append("it holds no transformer")
    if not {"vae", "taehv"} & set(kinds):
        found.append("it holds no decoder: put the Wan VAE (vae) or the small one (taehv) beside the rest")
    for kind in ("transformer", "lora", "vae", "taehv"):
        files = [Path(report.path).name for report in reports if report.kind == kind]
        if len(files) > 1:
            found.append(f"it holds {len(files)} files of kind {kind} ({', '.join(files)}); leave one")
    return found


def _looked_at(path: Path, preset: Architecture | None) -> Report:
    try:
        unread = open_unread(path)
    except WeightsError as error:
        return Report(str(path), "unreadable", other=(str(error),))
    checkpoint = unread.checkpoint
    tensors = checkpoint.tensors.values()
    architecture, different, other = _compared(unread, preset)
    return Report(
        path=str(path),
        kind=checkpoint.kind,
        layout=checkpoint.layout,
        architecture=architecture.name if architecture else "",
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        parameters=sum(tensor.numel() for tensor in tensors),
        size_bytes=unread.size_bytes,
        missing=tuple(different.missing),
        unknown=tuple(different.unknown),
        reshaped=tuple(different.reshaped),
        spoilt=tuple(_spoilt(unread)),
        other=(other,) if other else (),
    )


def _compared(unread: Unread, preset: Architecture | None) -> tuple[Architecture | None, Differences, str]:
    """The preset it is compared with, how it differs, and what hinders it as a whole ("": nothing)."""
    checkpoint = unread.checkpoint
    match checkpoint.kind:
        case "transformer":
            return _transformer(checkpoint, preset)
        case "lora":
            return _lora(unread, preset)
        case "vae" | "taehv":
            with torch.device("meta"):
                module = _DECODERS[checkpoint.kind]()
            return preset, decoder_differences(checkpoint, module), ""
        case "text encoder":
            return preset, *_text_encoder(checkpoint.tensors)
    return None, _SAME, f"holds {some(list(checkpoint.tensors))}: nothing of the Wan 2.1 family"


def _transformer(
    checkpoint: Checkpoint, preset: Architecture | None
) -> tuple[Architecture | None, Differences, str]:
    nearest = preset or _of_size(checkpoint.tensors)
    if nearest is None:
        return None, _SAME, _foreign(checkpoint.tensors)
    if foreign := foreign_to(checkpoint, nearest):
        return preset, _SAME, foreign
    return nearest, differences(checkpoint, nearest), ""


def _of_size(tensors: Tensors) -> Architecture | None:
    dim, layers = size(tensors)
    return next((a for a in ARCHITECTURES.values() if (a.dim, a.layers) == (dim, layers)), None)


def _foreign(tensors: Tensors) -> str:
    dim, layers = size(tensors)
    known = "; ".join(f"{a.name}: {a.layers} × {a.dim}" for a in ARCHITECTURES.values())
    return f"is a transformer of {layers} layers of width {dim}, which is no preset ({known})"


def _lora(unread: Unread, preset: Architecture | None) -> tuple[Architecture | None, Differences, str]:
    tensors = {
        name: whole(unread.pieces[name])[0] if name.endswith(".alpha") else tensor
        for name, tensor in unread.checkpoint.tensors.items()
    }
    checkpoint = Checkpoint(unread.checkpoint.path, "lora", unread.checkpoint.layout, tensors)
    why = ""
    for arch in [preset] if preset else ARCHITECTURES.values():
        try:
            updates = low_rank_updates(checkpoint, published_shapes(arch))
        except WeightsError as error:
            why = why or str(error)
        else:
            return arch, _SAME, "" if updates else f"holds no update of {arch.name}"
    return None, _SAME, why


def _text_encoder(tensors: Tensors) -> tuple[Differences, str]:
    """Complete if every layer there should be has what any of them has."""
    prefix = "encoder.block." if "encoder.block.0.layer.0.layer_norm.weight" in tensors else "blocks."
    split = [(name, *name.removeprefix(prefix).split(".", 1)) for name in tensors if name.startswith(prefix)]
    layers = {str(layer) for layer in range(TEXT_LAYERS)}
    parts = dict.fromkeys(part for _, _, part in split)
    wanted = [f"{prefix}{layer}.{part}" for layer in range(TEXT_LAYERS) for part in parts]
    different = Differences(
        [name for name in wanted if name not in tensors],
        [name for name, layer, _ in split if layer not in layers],
        [],
    )
    table = next(tensors[name] for name in TEXT_TABLES if name in tensors)
    width, needed = table.shape[-1], next(iter(ARCHITECTURES.values())).text_dim
    return different, "" if width == needed else f"encodes to width {width}, but Wan reads {needed}"


def _spoilt(unread: Unread) -> list[str]:
    return [
        name
        for name, tensor in unread.checkpoint.tensors.items()
        if tensor.is_floating_point() and not _finite(unread.pieces[name])
    ]


def _finite(pieces: Pieces) -> bool:
    return all(bool(torch.isfinite(piece.float()).all()) for piece in pieces())
