"""The world `sprites` is trained on, with its truth known: one little character over a moving background.

Everything after the first frame follows from the frame before and the prompt, so a model that sees recent
frames has nothing to guess. The only random thing, where the character starts, is given from outside.
Vectorised over clips; runs on any torch device. Pixels are -1..1, x to the right, y down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.sprites.vocabulary import SLOTS

HEIGHT, WIDTH = 96, 160
FIRST_FRAMES, CHUNK_FRAMES = 9, 12
RADII = (13.0, 19.0)
SPEEDS = (2.0, 3.5, 5.5)
ORBIT_AXES = (46.0, 26.0)
PALETTE = torch.tensor(
    [
        (0.90, 0.13, 0.15),
        (0.98, 0.52, 0.06),
        (0.99, 0.86, 0.14),
        (0.13, 0.68, 0.25),
        (0.14, 0.36, 0.93),
        (0.52, 0.20, 0.76),
        (1.00, 0.50, 0.74),
        (0.96, 0.96, 0.97),
    ]
)
_MOTIONS = SLOTS["motion"]
_HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_BOUNCE = (0.8, 0.6)
_TEXTURE = 128
_REACH = 1.5  # a shape's texture covers -1.5..1.5 radii


def chunk_of_frames(chunks: int) -> list[int]:
    return [0] * FIRST_FRAMES + [1 + n // CHUNK_FRAMES for n in range(CHUNK_FRAMES * (chunks - 1))]


def phase_of(frame: int) -> int:
    """Backgrounds move with a period of one chunk; frame 9 opens the first full chunk."""
    return (frame + CHUNK_FRAMES - FIRST_FRAMES) % CHUNK_FRAMES


def limits(size: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest centre positions, [batch, 2] each."""
    radius = torch.tensor(RADII, device=size.device)[size][:, None] + 1.0
    corner = torch.tensor([WIDTH - 1.0, HEIGHT - 1.0], device=size.device)
    return radius.expand(-1, 2), corner - radius


def simulate(scenes: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """scenes [batch, chunks, 6] (value indices), start [batch, 2] in 0..1 -> centres and gaze, [batch,
    frames, 2] each."""
    low, high = limits(scenes[:, 0, 2])
    position = low + start * (high - low)
    heading = _first_heading(scenes[:, 0, 3], position)
    positions, gazes = [position], [heading * (scenes[:, 0, 3:4] != 0)]
    chunk_of = chunk_of_frames(scenes.shape[1])
    for frame in range(1, len(chunk_of)):
        now, before = scenes[:, chunk_of[frame]], scenes[:, chunk_of[frame - 1]]
        if chunk_of[frame] != chunk_of[frame - 1]:
            turned = (now[:, 3] != before[:, 3])[:, None]
            heading = torch.where(turned, _first_heading(now[:, 3], position), heading)
        position, heading = _advance(position, heading, now)
        positions.append(position)
        gazes.append(heading * (now[:, 3:4] != 0))
    return torch.stack(positions, 1), torch.stack(gazes, 1)


def _first_heading(motion: Tensor, position: Tensor) -> Tensor:
    """left, right, up and down as said; bounce sets off towards the middle."""
    table = torch.tensor([_HEADINGS.get(name, (0.0, 0.0)) for name in _MOTIONS], device=motion.device)
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2], device=motion.device)
    inward = torch.where(position < middle, 1.0, -1.0) * torch.tensor(_BOUNCE, device=motion.device)
    return torch.where((motion == _MOTIONS.index("bounce"))[:, None], inward, table[motion])


def _advance(position: Tensor, heading: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
    speed = torch.tensor(SPEEDS, device=scene.device)[scene[:, 4]][:, None]
    low, high = limits(scene[:, 2])
    straight = position.clamp(low, high) + heading * speed * (scene[:, 3:4] != _MOTIONS.index("still"))
    bounced = (straight < low) | (straight > high)
    straight = torch.where(straight < low, 2 * low - straight, straight)
    straight = torch.where(straight > high, 2 * high - straight, straight)
    around, tangent = _orbit(position, speed)
    orbiting = scene[:, 3:4] == _MOTIONS.index("orbit")
    new_heading = torch.where(bounced, -heading, heading)
    moved = torch.where(orbiting, around, straight).clamp(low, high)
    return moved, torch.where(orbiting, tangent, new_heading)


def _orbit(position: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
    """Clockwise around the middle; the distance relaxes to the ellipse of ORBIT_AXES."""
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2], device=position.device)
    axes = torch.tensor(ORBIT_AXES, device=position.device)
    scaled = (position - middle) / axes
    radius = scaled.norm(dim=1, keepdim=True)
    angle = torch.atan2(scaled[:, 1:], scaled[:, :1]) + speed / 28.0
    radius = radius + 0.15 * (1.0 - radius)
    around = middle + axes * radius * torch.cat([angle.cos(), angle.sin()], 1)
    tangent = axes * torch.cat([-angle.sin(), angle.cos()], 1)
    return around, tangent / tangent.norm(dim=1, keepdim=True)


class Painter:
    """Draws simulated clips; holds the backgrounds and shape textures of one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.backgrounds = paint_backgrounds().to(self.device)
        self.shapes = shape_distances().to(self.device)
        self.palette = PALETTE.to(self.device)
        y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        self.pixels = torch.stack([x, y], -1).float().to(self.device)

    def draw(self, scenes: Tensor, start: Tensor) -> Tensor:
        """[batch, chunks, 6], [batch, 2] -> [batch, frames, 3, 96, 160]."""
        return self.draw_at(scenes, *simulate(scenes, start))

    def draw_at(self, scenes: Tensor, centres: Tensor, gazes: Tensor) -> Tensor:
        """The same for clips simulated before."""
        chunk_of = chunk_of_frames(scenes.shape[1])
        phases = torch.tensor([phase_of(f) for f in range(len(chunk_of))], device=self.device)
        per_frame = scenes[:, chunk_of]
        flat = per_frame.flatten(0, 1)
        pictures = self.frame(
            flat, centres.flatten(0, 1), gazes.flatten(0, 1), phases.repeat(scenes.shape[0])
        )
        return pictures.view(*per_frame.shape[:2], 3, HEIGHT, WIDTH)

    def ground(self, scenes: Tensor) -> Tensor:
        """The same clips without the character."""
        chunk_of = chunk_of_frames(scenes.shape[1])
        phases = torch.tensor([phase_of(f) for f in range(len(chunk_of))], device=self.device)
        return self.backgrounds[scenes[:, chunk_of, 5], phases] * 2 - 1

    def frame(self, scene: Tensor, centre: Tensor, gaze: Tensor, phase: Tensor) -> Tensor:
        """One picture per row: [n, 6], [n, 2], [n, 2], [n] -> [n, 3, 96, 160]."""
        radius = torch.tensor(RADII, device=self.device)[scene[:, 2]][:, None, None]
        local = (self.pixels - centre[:, None, None]) / radius[..., None]
        distance = F.grid_sample(
            self.shapes[scene[:, 1]][:, None], local / _REACH, align_corners=True, padding_mode="border"
        )
        body = self._body(scene, local, distance[:, 0] * radius, gaze, radius)
        cover = (0.5 - distance * radius[:, None] / 1.4).clamp(0, 1)
        ground = self.backgrounds[scene[:, 5], phase]
        return (ground * (1 - cover) + body * cover) * 2 - 1

    def _body(self, scene: Tensor, local: Tensor, depth: Tensor, gaze: Tensor, radius: Tensor) -> Tensor:
        base = self.palette[scene[:, 0]][:, :, None, None]
        light = 1.0 - 0.12 * local[..., 0] - 0.18 * local[..., 1]
        colour = (base * light[:, None]).clamp(0, 1)
        rim = ((depth + 2.6) / 1.2).clamp(0, 1)[:, None]
        colour = colour * (1 - rim) + base * 0.45 * rim
        drop = torch.tensor([0.0, 0.05, 0.28, 0.0, -0.12, 0.0], device=self.device)[scene[:, 1]]
        for side in (-0.29, 0.29):
            eye_x = local[..., 0] - side - 0.10 * gaze[:, 0, None, None]
            eye_y = local[..., 1] + 0.12 - drop[:, None, None] - 0.10 * gaze[:, 1, None, None]
            white = _dot(eye_x, eye_y / 1.15, 0.25, radius)
            gaze_x, gaze_y = 0.09 * gaze[:, 0, None, None], 0.09 * gaze[:, 1, None, None]
            pupil = _dot(eye_x - gaze_x, eye_y - gaze_y, 0.15, radius)
            colour = colour * (1 - white) + white
            colour = colour * (1 - pupil) + 0.06 * pupil
        return colour


def _dot(x: Tensor, y: Tensor, size: float, radius: Tensor) -> Tensor:
    return (0.5 - ((x * x + y * y + 1e-9).sqrt() - size) * radius / 1.2).clamp(0, 1)[:, None]


def shape_distances() -> Tensor:
    """Signed distances (in radii, negative inside) of the six shapes as [6, 128, 128] textures over ±1.5
    radii."""
    axis = torch.linspace(-_REACH, _REACH, _TEXTURE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ball = (x * x + y * y).sqrt() - 0.95
    corner_x, corner_y = (x.abs() - 0.64).clamp(min=0), (y.abs() - 0.64).clamp(min=0)
    box = (corner_x**2 + corner_y**2).sqrt() - 0.18
    half = math.sqrt(3) / 2
    triangle = torch.maximum(y - 0.66, half * x.abs() - 0.5 * y - 0.52)
    diamond = (1.25 * x.abs() + y.abs() - 1.02) / math.hypot(1.25, 1)
    return torch.stack([ball, box, triangle, _star(x, y), _heart(x, y), diamond])


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points up; distance to the edges of one tenth of it, unfolded by symmetry."""
    angle = torch.atan2(x, -y)
    sector = 2 * math.pi / 5
    folded = (angle - sector * torch.round(angle / sector)).abs()
    length = (x * x + y * y).sqrt()
    along, across = length * folded.cos(), length * folded.sin()
    tip = (1.08, 0.0)
    dent = (0.56 * math.cos(sector / 2), 0.56 * math.sin(sector / 2))
    edge = (dent[0] - tip[0], dent[1] - tip[1])
    normal = (edge[1] / math.hypot(*edge), -edge[0] / math.hypot(*edge))
    return (along - tip[0]) * normal[0] + (across - tip[1]) * normal[1]


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Two round lobes over a rounded point."""
    x, up = x.abs() / 1.75, (0.78 - y) / 1.75
    lobe = ((x - 0.25) ** 2 + (up - 0.75) ** 2).sqrt() - math.sqrt(2) / 4
    slope = 0.5 * (x + up).clamp(min=0)
    point = torch.minimum(x * x + (up - 1) ** 2, (x - slope) ** 2 + (up - slope) ** 2).sqrt() * torch.sign(
        x - up
    )
    return torch.where(x + up > 1, lobe, point) * 1.75


def paint_backgrounds() -> Tensor:
    """[5 kinds, 12 phases, 3, 96, 160] in 0..1, in the order of the vocabulary."""
    y, x = torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
    painters = (_night, _meadow, _sea, _desert, _plain)
    phases = [2 * math.pi * p / CHUNK_FRAMES for p in range(CHUNK_FRAMES)]
    return torch.stack([torch.stack([paint(x, y, phase) for phase in phases]) for paint in painters]).clamp(
        0, 1
    )


def _blend(below: Tensor, colour: tuple[float, float, float], cover: Tensor) -> Tensor:
    return below * (1 - cover) + torch.tensor(colour)[:, None, None] * cover


def _gradient(
    y: Tensor, top: tuple[float, float, float], bottom: tuple[float, float, float], end: float
) -> Tensor:
    share = (y / end).clamp(0, 1)
    return torch.tensor(top)[:, None, None] * (1 - share) + torch.tensor(bottom)[:, None, None] * share


def _disc(x: Tensor, y: Tensor, cx: float, cy: float, radius: float, soft: float = 1.2) -> Tensor:
    return (0.5 - (((x - cx) ** 2 + (y - cy) ** 2).sqrt() - radius) / soft).clamp(0, 1)


def _night(x: Tensor, y: Tensor, phase: float) -> Tensor:
    sky = _gradient(y, (0.02, 0.03, 0.13), (0.17, 0.12, 0.33), HEIGHT)
    for i in range(34):
        cx, cy = (i * 61.8) % WIDTH, (i * i * 13.7 + i * 5.3) % (HEIGHT - 24) + 3
        glow = 0.62 + 0.38 * math.sin(phase * (1 + i % 2) + i * 2.1)
        star = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (0.8 + 0.25 * (i % 3)) ** 2))
        sky = sky + torch.tensor((0.95, 0.93, 0.80))[:, None, None] * star * glow
    moon = (_disc(x, y, 136, 20, 10) - _disc(x, y, 131, 17, 9)).clamp(0, 1)
    sky = _blend(sky, (0.97, 0.94, 0.78), moon)
    hill = ((y - (86 + 5 * torch.sin(x / 21 + 1))) / 1.2).clamp(0, 1)
    return _blend(sky, (0.04, 0.05, 0.12), hill)


def _meadow(x: Tensor, y: Tensor, phase: float) -> Tensor:
    scene = _gradient(y, (0.45, 0.74, 0.96), (0.82, 0.93, 0.98), 60)
    for cx, cy, size in ((30, 18, 8), (41, 15, 10), (52, 19, 7), (116, 26, 7), (126, 24, 9), (136, 27, 6)):
        drift = 1.5 * math.sin(phase)
        scene = _blend(scene, (0.98, 0.99, 1.0), 0.85 * _disc(x, y, cx + drift, cy, size, 4.0))
    far = ((y - (58 + 7 * torch.sin(x / 26 + 0.6))) / 1.2).clamp(0, 1)
    scene = _blend(scene, (0.52, 0.76, 0.42), far)
    near = ((y - (72 + 5 * torch.sin(x / 19 + 3.4))) / 1.2).clamp(0, 1)
    blades = 0.035 * torch.sin(
        x * 0.9 + 0.6 * torch.sin(y * 0.5) + 1.2 * math.sin(phase) * (1.2 - y / HEIGHT)
    )
    scene = _blend(scene, (0.36, 0.64, 0.30), near) + near * blades
    for i in range(14):
        left, top = (i * 47 + 9) % WIDTH + 0.8 * math.sin(phase + i), 82 + (i * 29) % 11
        petals = ((0.98, 0.95, 0.80), (0.98, 0.75, 0.82))[i % 2]
        scene = _blend(scene, petals, _disc(x, y, left, top, 1.5))
    return scene


def _sea(x: Tensor, y: Tensor, phase: float) -> Tensor:
    scene = _gradient(y, (0.68, 0.86, 0.97), (0.96, 0.93, 0.84), 40)
    scene = _blend(scene, (1.0, 0.97, 0.80), _disc(x, y, 34, 16, 8, 3.0))
    shore = 38 + 0.8 * torch.sin(x * (2 * math.pi / 40) - phase)
    water = _gradient(y - 38, (0.30, 0.66, 0.80), (0.05, 0.30, 0.52), HEIGHT - 38)
    depth = (y - 38).clamp(min=0)
    for rows, length, strength in ((7.0, 40.0, 0.05), (11.0, 64.0, 0.045)):
        crest = torch.sin(
            depth / rows * 2 * math.pi + 1.6 * torch.sin(x * 2 * math.pi / length - phase) - phase
        )
        water = water + strength * (crest.clamp(min=0) ** 2) * (0.5 + depth / 60)
    cover = ((y - shore) / 1.2).clamp(0, 1)
    return scene * (1 - cover) + water * cover


def _desert(x: Tensor, y: Tensor, phase: float) -> Tensor:
    scene = _gradient(y, (0.98, 0.70, 0.42), (0.99, 0.90, 0.70), 56)
    glow = 1.0 + 0.06 * math.sin(phase)
    scene = _blend(scene, (1.0, 0.95, 0.74), 0.45 * _disc(x, y, 118, 26, 17 * glow, 14.0))
    scene = _blend(scene, (1.0, 0.97, 0.86), _disc(x, y, 118, 26, 10))
    for base, height, wave, shift, colour in (
        (56, 7, 30, 0.3, (0.90, 0.68, 0.42)),
        (68, 8, 23, 2.6, (0.83, 0.58, 0.33)),
        (83, 5, 34, 4.4, (0.72, 0.47, 0.26)),
    ):
        dune = ((y - (base + height * torch.sin(x / wave + shift))) / 1.2).clamp(0, 1)
        scene = _blend(scene, colour, dune)
    ripples = 0.025 * torch.sin(y * 1.1 + 2.2 * torch.sin(x / 17) - phase) * (y > 70)
    return scene + ripples


def _plain(x: Tensor, y: Tensor, phase: float) -> Tensor:
    vignette = ((x - WIDTH / 2) / WIDTH) ** 2 + ((y - HEIGHT / 2) / HEIGHT) ** 2
    wall = torch.tensor((0.90, 0.88, 0.84))[:, None, None] * (1 - 0.35 * vignette)
    stripes = torch.sin((x + y) * (2 * math.pi / 32) - phase)
    return wall + 0.012 * stripes
