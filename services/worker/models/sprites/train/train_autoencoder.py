"""Trains the autoencoder on clips drawn on the fly, for a given time.

python -m services.worker.models.sprites.train.train_autoencoder --seconds 170 --out autoencoder.safetensors
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.worker.models.sprites.autoencoder import Autoencoder
from services.worker.models.sprites.train.clips import random_scenes
from services.worker.models.sprites.world import Painter

LATENT_NOISE = 0.1  # the decoder must forgive what a transformer gets slightly wrong


def loss_of(model: Autoencoder, frames: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted absolute error and, for the log, the plain squared error."""
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.device.type == "cuda"):
        latents, _ = model.encoder(frames)
        noisy = latents.float() + LATENT_NOISE * torch.randn_like(latents, dtype=torch.float32)
        made, _ = model.decoder(noisy)
    error = made.float() - frames
    weight = 1.0 + 7.0 * ((frames - ground).abs().amax(2, keepdim=True) > 0.06)
    scale = 0.02 * (latents.float().pow(2).mean() - 1).pow(2)
    return (error.abs() * weight).mean() + 2.0 * (error.pow(2) * weight).mean() + scale, error.pow(2).mean()


@torch.no_grad()
def draw_pool(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips of two chunks to choose from, as bytes, and their scenes."""
    painter = Painter(generator.device)
    scenes = random_scenes(count, 2, 0.5, generator)
    start = torch.rand(count, 2, generator=generator, device=generator.device)
    pictures = [
        ((painter.draw(s, w).clamp(-1, 1) + 1) * 127.5).round().byte()
        for s, w in zip(scenes.split(128), start.split(128), strict=True)
    ]
    return torch.cat(pictures), scenes


def train(
    seconds: float, clips: int, pool: int, seed: int, device: torch.device, start: str | None, peak: float
) -> Autoencoder:
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    model = Autoencoder().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures, scenes = draw_pool(pool, generator)
    painter = Painter(device)
    step_loss = torch.compile(loss_of, dynamic=False) if device.type == "cuda" else loss_of
    if start:
        model.load_state_dict({k: v.float() for k, v in load_file(start).items()})
        model.mean.zero_(), model.spread.fill_(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=1e-3)
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        pick = torch.randint(pool, (clips,), generator=generator, device=device)
        loss, squared = step_loss(model, pictures[pick].float() / 127.5 - 1, painter.ground(scenes[pick]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 500 == 0:
            decibel = 10 * math.log10(4 / squared.item())
            print(
                f"ae step {step} {time.monotonic() - began:.0f}s loss {loss.item():.4f} psnr {decibel:.1f}",
                flush=True,
            )
        step, done = step + 1, (time.monotonic() - began) / seconds
    print(f"ae steps {step}", flush=True)
    return model


@torch.no_grad()
def normalise(model: Autoencoder, device: torch.device) -> None:
    """Sets the mean and spread of each latent channel."""
    generator = torch.Generator(device).manual_seed(1)
    scenes = random_scenes(128, 2, 0.5, generator)
    frames = Painter(device).draw(scenes, torch.rand(128, 2, generator=generator, device=device))
    latents = torch.cat([model.encoder(part)[0] for part in frames.split(32)]).transpose(0, 2).flatten(1)
    model.mean.copy_(latents.mean(1)[:, None, None])
    model.spread.copy_(latents.std(1)[:, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--pool", type=int, default=12000, help="clips drawn ahead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--start", help="weights to go on from")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(
        options.seconds, options.clips, options.pool, options.seed, device, options.start, options.peak
    )
    normalise(model, device)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
