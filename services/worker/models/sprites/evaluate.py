"""Measures the shipped model against the world, on combinations it was never trained on.

    python -m services.worker.models.sprites.evaluate --prompts 100 --chunks 50 --seed 7

All prompts stream together, one row each. After `--chunks` chunks every prompt is changed to another
colour (and every other one to another background too), and the streams run on to `--until`. Prints one
JSON object and a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.models.sprites.judge import Judge, Sight
from services.worker.models.sprites.model import Sprites, State, load
from services.worker.models.sprites.vocabulary import SLOTS, Attributes, attributes, held_out, read
from services.worker.models.sprites.world import FIRST_FRAMES, limits, phase_of, simulate

_PHRASES = {
    "motion": ("rests", "moving left", "going to the right", "rising", "falling", "bouncing", "in circles"),
    "speed": ("slowly", "steadily", "quickly"),
    "background": (
        "under a starry sky",
        "above the grass",
        "over the ocean",
        "in the dunes",
        "before a plain wall",
    ),
    "size": ("tiny", "large"),
    "colour": ("scarlet", "orange", "golden", "emerald", "blue", "violet", "pink", "white"),
    "shape": ("circle", "square", "pyramid", "star", "heart", "rhombus"),
}
_STILL_PX, _MOTION_PX = 3.0, 6.0
_GROUND_DB = 24.0


def make_prompts(count: int, seed: int) -> list[str]:
    """Held-out combinations of colour, shape and background, with size, motion and speed at random."""
    chance, prompts = random.Random(seed), list[str]()
    while len(prompts) < count:
        values = [chance.randrange(len(options)) for options in SLOTS.values()]
        scene: Attributes = (values[0], values[1], values[2], values[3], values[4], values[5])
        if held_out(scene):
            named = {slot: _PHRASES[slot][value] for slot, value in zip(SLOTS, scene, strict=True)}
            prompts.append("a {size} {colour} {shape} {motion} {speed} {background}".format(**named))
    return prompts


class Streams:
    """Many sessions in step."""

    def __init__(self, model: Sprites, prompts: Sequence[str], seed: int, rung: int) -> None:
        self._model, self._rung = model, model.spec.rungs[rung]
        self.states: list[State] = [model.open(seed=seed * 1000 + i, prompt=p) for i, p in enumerate(prompts)]
        self.scenes = torch.tensor([attributes(read(prompt).named) for prompt in prompts])

    def change(self, prompts: Sequence[str]) -> None:
        for row, (state, prompt) in enumerate(zip(self.states, prompts, strict=True)):
            self._model.set_prompt(state, prompt)
            before = self.scenes[row].tolist()
            self.scenes[row] = torch.tensor(attributes(read(prompt).named, tuple(before)))

    def chunk(self) -> Tensor:
        """[rows, frames, 96, 160, 3]"""
        forwards = max(self._model.begin_chunk(state, self._rung) for state in self.states)
        for _ in range(forwards):
            self._model.forward(self.states)
        return torch.stack([self._model.decode(state) for state in self.states])


def look(judge: Judge, frames: Tensor, scenes: Tensor, frame: int, opening: bool) -> Sight:
    phase = phase_of(frame if opening else FIRST_FRAMES + frame)
    device = judge.device
    phases = torch.full((len(scenes),), phase, device=device)
    return judge.look(frames[:, frame], scenes.to(device), phases)


def share(hits: Tensor) -> float:
    return round(100 * hits.float().mean().item(), 1)


def summary(sight: Sight, scenes: Tensor) -> dict[str, float]:
    scenes = scenes.to(sight.colour.device)
    return {
        "colour_pct": share(sight.colour == scenes[:, 0]),
        "shape_pct": share(sight.shape == scenes[:, 1]),
        "overlap": round(sight.overlap.mean().item(), 3),
        "ground_db_median": round(sight.ground_db.median().item(), 1),
        "ground_kept_pct": share(sight.ground_db > _GROUND_DB),
    }


def motion_right(judge: Judge, frames: Tensor, scenes: Tensor) -> Tensor:
    """Whether the first chunk moves as the world would from where it starts."""
    first, last = (look(judge, frames, scenes, at, opening=True).centre for at in (0, 8))
    scenes = scenes.to(first.device)
    low, high = limits(scenes[:, 2])
    start = ((first - low) / (high - low)).clamp(0, 1)
    path, _ = simulate(scenes[:, None], start)
    allowed = torch.where(scenes[:, 3] == 0, _STILL_PX, _MOTION_PX)
    moved = (last - first) - (path[:, -1] - path[:, 0])
    return moved.norm(dim=1) < allowed


def changes(scenes: Tensor, seed: int) -> list[str]:
    chance, prompts = random.Random(seed), list[str]()
    for row, scene in enumerate(scenes.tolist()):
        colour = chance.choice([c for i, c in enumerate(SLOTS["colour"]) if i != scene[0]])
        ground = chance.choice([b for i, b in enumerate(SLOTS["background"]) if i != scene[5]])
        prompts.append(f"now make it {colour}" + (f" and put it before: {ground}" if row % 2 else ""))
    return prompts


def evaluate(model: Sprites, device: str, options: argparse.Namespace) -> dict[str, object]:
    judge = Judge(device)
    prompts = make_prompts(options.prompts, options.seed)
    streams = Streams(model, prompts, options.seed, options.rung)
    result: dict[str, object] = {"prompts": len(prompts), "rung": model.spec.rungs[options.rung].name}
    colours, shapes, latency = [], [], torch.full((len(prompts),), -1)
    marks = {1: "chunk_1", options.chunks: f"chunk_{options.chunks}", options.until: f"chunk_{options.until}"}
    for index in range(options.until):
        if index == options.chunks:
            streams.change(changes(streams.scenes, options.seed))
        frames = streams.chunk()
        sight = look(judge, frames, streams.scenes, frames.shape[1] - 1, opening=index == 0)
        right = (sight.colour == streams.scenes[:, 0].to(sight.colour.device)).cpu()
        if index == 0:
            result["motion_pct"] = share(motion_right(judge, frames, streams.scenes))
        if index < options.chunks:
            colours.append(right)
            shapes.append((sight.shape == streams.scenes[:, 1].to(sight.shape.device)).cpu())
        elif index < options.chunks + 10:
            shown = right & (sight.ground_db.cpu() > _GROUND_DB)
            latency = torch.where((latency < 0) & shown, index - options.chunks + 1, latency)
        if index + 1 in marks:
            result[marks[index + 1]] = summary(sight, streams.scenes)
            print(json.dumps(result), file=sys.stderr, flush=True)
    result[f"colour_pct_first_{options.chunks}"] = share(torch.stack(colours))
    result[f"shape_pct_first_{options.chunks}"] = share(torch.stack(shapes))
    if options.until > options.chunks:
        result["change_shown_in_chunk_1_pct"] = share(latency == 1)
        result["change_shown_within_2_pct"] = share((latency > 0) & (latency <= 2))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--until", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rung", type=int, default=0)
    parser.add_argument("--weights", default="", help="another weights file than the shipped one")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = evaluate(load(device, options.weights), device, options)
    result["machine"] = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
    print(json.dumps(result))
    for name, value in result.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
