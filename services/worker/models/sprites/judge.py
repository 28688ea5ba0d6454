"""What a picture shows, for someone who knows the world: used by the evaluator and by a small check in
the tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.sprites.vocabulary import SLOTS
from services.worker.models.sprites.world import RADII, Painter

_SHOWN = 0.25  # difference from the background, of 2, that counts as the character
_LEAST_PIXELS = 60
_NEAR = 0.22
_SHADES = (0.72, 0.86, 1.0, 1.14)


@dataclass(frozen=True)
class Sight:
    """One row per picture. `colour` and `shape` are value indices, -1 where no character is seen;
    `overlap` is the intersection over union with the asked shape; `ground_db` the PSNR of the background
    off the character."""

    colour: Tensor
    shape: Tensor
    overlap: Tensor
    centre: Tensor
    ground_db: Tensor


class Judge:
    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._painter = Painter(device)
        self._pixels = self._painter.pixels
        shades = torch.tensor(_SHADES, device=self._painter.device)[:, None, None]
        self._palette = (self._painter.palette * shades).clamp(0, 1)
        self._middles = [self._middle_of(shape) for shape in range(len(SLOTS["shape"]))]

    def look(self, frames: Tensor, scene: Tensor, phase: Tensor) -> Sight:
        """frames uint8 [n, 96, 160, 3], the scene asked for [n, 6], the background's phase [n]."""
        pictures = frames.to(self._painter.device).permute(0, 3, 1, 2).float() / 255
        ground = self._painter.backgrounds[scene[:, 5], phase]
        differs = (pictures - ground).abs().amax(1, keepdim=True) * 2 > _SHOWN
        mask = (F.avg_pool2d(differs.float(), 3, 1, 1) > 0.5)[:, 0]
        count = mask.sum((1, 2))
        seen = count >= _LEAST_PIXELS
        centre = (self._pixels * mask[..., None]).sum((1, 2)) / count.clamp(min=1)[:, None]
        overlaps = self._overlaps(mask, centre)
        best = overlaps.amax(2)
        near = F.max_pool2d(mask[:, None].float(), 9, 1, 4)
        error = ((pictures - ground).square() * (1 - near)).sum((1, 2, 3)) / (3 * (1 - near).sum((1, 2, 3)))
        return Sight(
            torch.where(seen, self._votes(pictures, mask).argmax(1), -1),
            torch.where(seen, best.argmax(1), -1),
            best.gather(1, scene[:, 1:2])[:, 0] * seen,
            centre,
            -10 * error.clamp(min=1e-9).log10(),
        )

    def _votes(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Pixels of the character near each colour in any shade; white counts half, since eyes are white."""
        distance = (pictures[:, None, None] - self._palette[None, ..., None, None]).norm(dim=3)
        votes = ((distance.amin(1) < _NEAR) & mask[:, None]).sum((2, 3)).float()
        votes[:, SLOTS["colour"].index("white")] *= 0.5
        return votes

    def _cover(self, shape: int, local: Tensor) -> Tensor:
        texture = self._painter.shapes[shape].expand(local.shape[0], 1, -1, -1)
        distance = F.grid_sample(texture, local / 1.5, align_corners=True, padding_mode="border")
        return distance[:, 0] < 0

    def _middle_of(self, shape: int) -> Tensor:
        """Centroid of a shape, in radii from its centre."""
        axis = torch.linspace(-1.5, 1.5, 200, device=self._painter.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        local = torch.stack([x, y], -1)
        return local[self._cover(shape, local[None])[0]].mean(0)

    def _overlaps(self, mask: Tensor, centre: Tensor) -> Tensor:
        """Intersection over union with every shape in both sizes, centroids aligned: [n, shapes, sizes]."""
        rows = []
        for shape, middle in enumerate(self._middles):
            for radius in RADII:
                local = (self._pixels - centre[:, None, None]) / radius + middle
                cover = self._cover(shape, local)
                rows.append((cover & mask).sum((1, 2)) / (cover | mask).sum((1, 2)).clamp(min=1))
        return torch.stack(rows, 1).unflatten(1, (-1, len(RADII)))
