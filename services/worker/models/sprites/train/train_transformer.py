r"""Trains the transformer in latents, for a given time; run again with --start and --depth to go on.

Each step takes whole clips and trains all their chunks at once, every one against the past that serving
would show it. With --depth D the past is not the truth: the model first makes every chunk from the true
past, then again from what it made, up to D times over, and learns to answer such pasts with the true next
chunk. That is a roll-out in which every chunk stays beside its truth, at the cost of one forward per round.

    python -m services.worker.models.sprites.train.train_transformer \
        --autoencoder a.safetensors --seconds 300 --out t.safetensors
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from services.worker.models.sprites import transformer
from services.worker.models.sprites.autoencoder import Autoencoder
from services.worker.models.sprites.noise import SHAPE, with_start
from services.worker.models.sprites.train.clips import random_scenes
from services.worker.models.sprites.transformer import GRID, Block, Parallel, Transformer
from services.worker.models.sprites.vocabulary import SLOTS, TOKEN_OFFSETS
from services.worker.models.sprites.world import Painter, simulate

CHUNKS = 8


@dataclass(frozen=True)
class Clips:
    """Encoded clips: latents [n, chunks, 3, 16, 12, 20] in bf16, scenes [n, chunks, 6], start [n, 2]; and the
    latents of every background alone, [5, chunks, 3, 16, 12, 20]."""

    latents: Tensor
    scenes: Tensor
    start: Tensor
    grounds: Tensor


@torch.no_grad()
def encode_clips(
    autoencoder: Autoencoder, count: int, generator: torch.Generator, batch: int, change: float
) -> Clips:
    device = generator.device
    painter = Painter(device)

    def encode(frames: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            latents, _ = autoencoder.encode(frames)
        return latents.unflatten(1, (CHUNKS, 3)).to(torch.bfloat16)

    scenes = random_scenes(count, CHUNKS, change, generator)
    start = torch.rand(count, 2, generator=generator, device=device)
    simulated = [x.split(batch) for x in (scenes, *simulate(scenes, start))]
    parts = [encode(painter.draw_at(*part)) for part in zip(*simulated, strict=True)]
    kinds = torch.zeros(len(SLOTS["background"]), CHUNKS, 6, dtype=torch.long, device=device)
    kinds[:, :, 5] = torch.arange(len(kinds), device=device)[:, None]
    return Clips(torch.cat(parts), scenes, start, encode(painter.ground(kinds)))


class Trainer:
    """Draws batches into fixed tensors and runs the model over them; on a GPU as two recorded graphs,
    because launching the kernels one by one takes twice as long as running them."""

    def __init__(self, model: Transformer, clips: Clips, batch: int, seed: int) -> None:
        device = clips.latents.device
        self.model, self.clips, self.batch, self.device = model, clips, batch, device
        self.generator, self.choice = torch.Generator(device).manual_seed(seed), random.Random(seed)
        self.attend = Parallel(batch, CHUNKS, device)
        self.opening = torch.zeros(2, batch, CHUNKS, device=device)
        self.opening[:, :, 0] = 1
        shape = (batch, CHUNKS, *SHAPE)
        self.past, self.noisy, self.truth, self.made = (torch.zeros(shape, device=device) for _ in range(4))
        self.character = torch.zeros(batch, CHUNKS, 3, 1, *GRID, device=device)
        self.t = torch.ones(batch, CHUNKS, device=device)
        self.tokens = torch.zeros(batch, CHUNKS, 6, dtype=torch.long, device=device)
        self.loss = torch.zeros((), device=device)
        self.rounds = 0
        self._learn, self._guess = self.forward_backward, self.forward_only

    def predict(self) -> Tensor:
        """The model's clean latents of every chunk of `noisy` at level `t`, given `past`."""
        with torch.autocast(
            self.device.type, torch.bfloat16, self.device.type == "cuda", cache_enabled=False
        ):
            text_kv = self.model.text_kv(self.tokens.flatten(0, 1))
            both = torch.stack([self.past, self.noisy]).flatten(0, 2)
            levels = torch.stack([torch.zeros_like(self.t), self.t]).flatten()[:, None].expand(-1, 3)
            made = self.model(
                both, levels, self.opening.flatten(), torch.cat([text_kv, text_kv]), self.attend
            )
        return made.unflatten(0, (2, self.batch, CHUNKS))[1].float()

    def forward_only(self) -> None:
        with torch.no_grad():
            self.made.copy_(self.predict())

    def forward_backward(self) -> None:
        """Squared error, five times as heavy on the character and twice in the first chunk."""
        made = self.predict()
        weight = (1 + 4 * self.character) * (1 + self.opening[0])[:, :, None, None, None, None]
        loss = ((made - self.truth).square() * weight).mean()
        loss.backward()
        self.loss.copy_(loss.detach())
        self.made.copy_(made.detach())

    @property
    def recorded(self) -> bool:
        return self._learn != self.forward_backward

    def record(self) -> None:
        """Records both passes as CUDA graphs; gradients live in the graph's memory from then on."""
        self._guess = self._recorded(self.forward_only)
        self._learn = self._recorded(self.forward_backward)

    def _recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.model.zero_grad(set_to_none=True)
                work()
        torch.cuda.current_stream().wait_stream(side)
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def normal(self) -> Tensor:
        return torch.randn(self.past.shape, generator=self.generator, device=self.device)

    def learn(self, depth: int) -> None:
        """One batch: the gradients are there afterwards."""
        pick = torch.randint(
            len(self.clips.scenes), (self.batch,), generator=self.generator, device=self.device
        )
        scenes = self.clips.scenes[pick]
        self.truth.copy_(self.clips.latents[pick])
        self.tokens.copy_(scenes + torch.tensor(TOKEN_OFFSETS, device=self.device))
        self.attend.strange.copy_(self.uniform(self.batch) < 0.5)
        ground = self.clips.grounds[scenes[:, :, 5], torch.arange(CHUNKS, device=self.device)].float()
        self.character.copy_((self.truth - ground).abs().amax(3, keepdim=True) > 0.5)
        noise = self.normal()
        noise[:, 0] = with_start(noise[:, 0], self.clips.start[pick])
        self._own_past(noise, depth)
        t = self.uniform(self.batch, CHUNKS)
        self.t.copy_(torch.where(self.uniform(self.batch, CHUNKS) < 0.6, 1.0, t))
        level = self.t[..., None, None, None, None]
        base = self.truth
        if depth:
            own = self.uniform(self.batch, CHUNKS)[..., None, None, None, None] < 0.7
            base = torch.where(own, self._first_guess(noise), self.truth)
        self.t.copy_(level[..., 0, 0, 0, 0])
        self.noisy.copy_((1 - level) * base + level * noise)
        self._learn()

    def _first_guess(self, noise: Tensor) -> Tensor:
        level = self.t.clone()
        self.t.fill_(1)
        self.noisy.copy_(noise)
        self._guess()
        self.t.copy_(level)
        return self.made

    def _own_past(self, noise: Tensor, depth: int) -> None:
        """The past after some rounds of making every chunk from it, by one or two denoise steps."""
        self.past.copy_(self.truth)
        self.rounds = self.choice.randint(0, depth)
        for _ in range(self.rounds):
            made = self._first_guess(noise)
            if self.choice.random() < 0.6:
                self.t.fill_(0.5)
                self.noisy.copy_(0.5 * made + 0.5 * noise)
                self._guess()
            self.past.copy_(self.made)
        blur = self.uniform(self.batch, CHUNKS, 1, 1, 1, 1) * (0.08 if self.rounds else 0.2)
        self.past.add_(blur * self.normal())

    def describe(self) -> str:
        """Error on the character at t = 1: first chunk, second chunk, later ones; and off it."""
        error, character = (self.made - self.truth).square().mean(3), self.character[:, :, :, 0]
        full = (self.t == 1)[:, :, None, None, None] * character
        spans = (slice(0, 1), slice(1, 2), slice(2, CHUNKS))
        parts = [(error * full)[:, s].sum() / full[:, s].sum().clamp(min=1) for s in spans]
        off = (error * (1 - character)).sum() / (1 - character).sum()
        return " ".join(f"{p.item():.3f}" for p in parts) + f" off {off.item():.4f} rounds {self.rounds}"


class Muon:
    """Momentum with orthogonalised updates for matrices; equal shapes are stacked and done together.

    The update has the size AdamW's would have, so both share a learning rate.
    """

    def __init__(self, matrices: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.01) -> None:
        shapes = sorted({tuple(p.shape) for p in matrices})
        self._groups = [[p for p in matrices if tuple(p.shape) == shape] for shape in shapes]
        self._moments = [torch.zeros_like(torch.stack(list(group))) for group in self._groups]
        self._momentum, self._decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group, moment in zip(self._groups, self._moments, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            weights: list[Tensor] = list(group)
            moment.lerp_(gradient, 1 - self._momentum)
            update = orthogonal(gradient.lerp(moment, self._momentum)).to(moment.dtype)
            torch._foreach_mul_(weights, 1 - rate * self._decay)
            torch._foreach_add_(
                weights, list(update.unbind()), alpha=-rate * 0.2 * max(moment.shape[1:]) ** 0.5
            )


def orthogonal(x: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices of [n, rows, columns], roughly, by five Newton-Schulz steps."""
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def average_into(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - keep)


def train(trainer: Trainer, options: argparse.Namespace) -> Transformer:
    """Trains for the given seconds and returns the running average of the weights."""
    model = trainer.model
    average = copy.deepcopy(model)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and min(p.shape) > 6]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon, adam = Muon(matrices), torch.optim.AdamW(rest, lr=options.peak, betas=(0.9, 0.98), weight_decay=0.0)
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        fall = options.floor + (1 - options.floor) * 0.5 * (1 + math.cos(math.pi * done))
        rate = options.peak * min(1.0, (step + 1) / 200) * fall
        adam.param_groups[0]["lr"] = rate
        trainer.learn(options.depth if done >= options.plain else 0)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(rate)
        adam.step()
        average_into(average, model, min(0.998, 1 - 10 / (step + 10)))
        if step % 400 == 0:
            seconds = time.monotonic() - began
            print(
                f"step {step} {seconds:.0f}s loss {trainer.loss.item():.4f} character {trainer.describe()}",
                flush=True,
            )
        step += 1
        done = (time.monotonic() - began) / options.seconds
        if not trainer.recorded:
            model.zero_grad(set_to_none=True)
    print(f"steps {step}", flush=True)
    return average


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoencoder", required=True)
    parser.add_argument("--start", help="weights to go on from")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--clips", type=int, default=24000)
    parser.add_argument("--change", type=float, default=0.2, help="chance of a prompt change per chunk")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument(
        "--floor", type=float, default=0.02, help="last learning rate as a share of the highest"
    )
    parser.add_argument("--plain", type=float, default=0.0, help="share of the time before --depth counts")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the blocks and record CUDA graphs")
    parser.add_argument("--out", required=True)
    return parser.parse_args()


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    generator = torch.Generator(device).manual_seed(options.seed)
    autoencoder = Autoencoder().to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    autoencoder.load_state_dict({k: v.float() for k, v in load_file(options.autoencoder).items()})
    began = time.monotonic()
    clips = encode_clips(autoencoder, options.clips, generator, min(64, options.clips), options.change)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"encoded {options.clips} clips in {time.monotonic() - began:.0f}s", flush=True)
    model = Transformer().to(device)
    if options.start:
        model.load_state_dict({k: v.float() for k, v in load_file(options.start).items()})
    if options.compile:
        torch._dynamo.config.recompile_limit = 64  # noqa: SLF001  # its only name
        Block.project = torch.compile(Block.project, dynamic=False)  # type: ignore[method-assign]
        transformer.span = torch.compile(transformer.span, dynamic=False)
        Block.mix = torch.compile(Block.mix, dynamic=False)  # type: ignore[method-assign]
    trainer = Trainer(model, clips, options.batch, options.seed)
    if options.compile:
        trainer.record()
    average = train(trainer, options)
    save_file({k: v.half().contiguous() for k, v in average.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
