"""The same models the plain way: every key and value ever made is kept, every clip is decoded whole."""

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.noise import draw

Weights = dict[str, Tensor]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def normed(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def turned(x: Tensor, positions: list[int], height: int, width: int) -> Tensor:
    """x [frames × h × w, heads, d], frame n at time positions[n], as complex numbers."""
    size = x.shape[-1]
    third = size // 6
    sizes = (size // 2 - 2 * third, third, third)
    angles = []
    for frame in positions:
        for row in range(height):
            for column in range(width):
                place = (frame, row, column)
                angles.append(
                    torch.cat(
                        [
                            p * 10_000.0 ** -(torch.arange(n).double() / n)
                            for p, n in zip(place, sizes, strict=True)
                        ]
                    )
                )
    wheel = torch.polar(torch.ones(1, dtype=torch.float64), torch.stack(angles))[:, None]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * wheel).flatten(-2).to(x.dtype)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[tokens, heads, d] each."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


class Session:
    """One session whose window slides over all it ever made."""

    def __init__(self, weights: Weights, heads: int, layers: int, text: Tensor, words: int) -> None:
        self.weights, self.heads, self.layers, self.words = weights, heads, layers, words
        self.past: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in range(layers)]
        self.say(text)

    def say(self, text: Tensor) -> None:
        filled = torch.zeros(self.words, text.shape[1])
        filled[: len(text)] = text
        hidden = F.gelu(linear(self.weights, "text_embedding.0", filled), approximate="tanh")
        self.text = linear(self.weights, "text_embedding.2", hidden)

    def velocity(self, latents: Tensor, timestep: float, fed: list[int], seen: list[int]) -> Tensor:
        """latents [frames, 16, h, w] of the frames `fed`, which are the last of those `seen`."""
        w = self.weights
        grid = F.conv3d(
            latents.transpose(0, 1)[None],
            w["patch_embedding.weight"],
            w["patch_embedding.bias"],
            stride=(1, 2, 2),
        )[0]
        _, frames, height, width = grid.shape
        x = grid.flatten(1).T
        half = w["time_embedding.0.weight"].shape[1] // 2
        angle = timestep * 10_000.0 ** -(torch.arange(half).double() / half)
        wave = torch.cat([angle.cos(), angle.sin()]).float()
        time = linear(w, "time_embedding.2", F.silu(linear(w, "time_embedding.0", wave)))
        six = linear(w, "time_projection.1", F.silu(time)).view(6, -1)
        for layer in range(self.layers):
            x = self.block(x, six, layer, fed, seen, height, width)
        shift, scale = w["head.modulation"][0] + time
        values = linear(w, "head.head", normed(x) * (1 + scale) + shift)
        picture = values.view(frames, height, width, 2, 2, 16)
        return torch.einsum("fhwpqc->fchpwq", picture).reshape(frames, 16, 2 * height, 2 * width)

    def block(
        self, x: Tensor, six: Tensor, layer: int, fed: list[int], seen: list[int], height: int, width: int
    ) -> Tensor:
        w, at = self.weights, f"blocks.{layer}"
        mod = w[f"{at}.modulation"][0] + six
        inner = normed(x) * (1 + mod[1]) + mod[0]
        q, k, v = (linear(w, f"{at}.self_attn.{part}", inner) for part in "qkv")
        q, k = rms(q, w[f"{at}.self_attn.norm_q.weight"]), rms(k, w[f"{at}.self_attn.norm_k.weight"])
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        tokens = height * width
        for number, frame in enumerate(fed):
            span = slice(number * tokens, (number + 1) * tokens)
            self.past[layer][frame] = (k[span], v[span])
        keys = torch.cat([self.past[layer][frame][0] for frame in seen])
        values = torch.cat([self.past[layer][frame][1] for frame in seen])
        places = list(range(len(seen)))
        out = attended(
            turned(q, places[-len(fed) :], height, width), turned(keys, places, height, width), values
        )
        x = x + linear(w, f"{at}.self_attn.o", out) * mod[2]
        inner = normed(x) * w[f"{at}.norm3.weight"] + w[f"{at}.norm3.bias"]
        q = rms(linear(w, f"{at}.cross_attn.q", inner), w[f"{at}.cross_attn.norm_q.weight"])
        k = rms(linear(w, f"{at}.cross_attn.k", self.text), w[f"{at}.cross_attn.norm_k.weight"])
        v = linear(w, f"{at}.cross_attn.v", self.text)
        out = attended(*(part.unflatten(-1, (self.heads, -1)) for part in (q, k, v)))
        x = x + linear(w, f"{at}.cross_attn.o", out)
        inner = normed(x) * (1 + mod[4]) + mod[3]
        hidden = F.gelu(linear(w, f"{at}.ffn.0", inner), approximate="tanh")
        return x + linear(w, f"{at}.ffn.2", hidden) * mod[5]


def self_forcing_chunk(
    session: Session, shape: tuple[int, ...], seed: int, chunk: int, fed: list[int], seen: list[int]
) -> Tensor:
    """Four steps from noise to clean latents, then the pass whose keys and values stay."""
    timesteps = [1000.0, 937.5, 2500 / 3, 625.0]
    latents = draw(shape, seed, chunk, 0)
    for step, timestep in enumerate(timesteps):
        clean = latents - timestep / 1000 * session.velocity(latents, timestep, fed, seen)
        if step + 1 < len(timesteps):
            share = timesteps[step + 1] / 1000
            latents = (1 - share) * clean + share * draw(shape, seed, chunk, step + 1)
    session.velocity(clean, 0.0, fed, seen)
    return clean


def causal(weights: Weights, name: str, x: Tensor) -> Tensor:
    kernel = weights[f"{name}.weight"]
    space = kernel.shape[-1] // 2
    padded = F.pad(x, (space, space, space, space, kernel.shape[2] - 1, 0))
    return F.conv3d(padded, kernel, weights[f"{name}.bias"])


def unit(x: Tensor, gain: Tensor) -> Tensor:
    length = x.pow(2).sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    return x / length * x.shape[1] ** 0.5 * gain


def residual(weights: Weights, name: str, x: Tensor) -> Tensor:
    inner = causal(weights, f"{name}.residual.2", F.silu(unit(x, weights[f"{name}.residual.0.gamma"])))
    inner = causal(weights, f"{name}.residual.6", F.silu(unit(inner, weights[f"{name}.residual.3.gamma"])))
    return inner + (causal(weights, f"{name}.shortcut", x) if f"{name}.shortcut.weight" in weights else x)


def enlarged(weights: Weights, name: str, x: Tensor) -> Tensor:
    if f"{name}.time_conv.weight" in weights and x.shape[2] > 1:
        pairs = causal(weights, f"{name}.time_conv", x[:, :, 1:])
        channels = x.shape[1]
        later = torch.stack([pairs[:, :channels], pairs[:, channels:]], 3).flatten(2, 3)
        x = torch.cat([x[:, :, :1], later], 2)
    frames = F.interpolate(x[0].transpose(0, 1), scale_factor=2, mode="nearest")
    weight, bias = weights[f"{name}.resample.1.weight"], weights[f"{name}.resample.1.bias"]
    return F.conv2d(frames, weight, bias, padding=1).transpose(0, 1)[None]


def looked_at(weights: Weights, name: str, x: Tensor) -> Tensor:
    made = []
    for frame in x[0].unbind(1):
        inner = unit(frame[None], weights[f"{name}.norm.gamma"])
        qkv = F.conv2d(inner, weights[f"{name}.to_qkv.weight"], weights[f"{name}.to_qkv.bias"])
        q, k, v = qkv[0].flatten(1).T.chunk(3, -1)
        out = ((q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v).T.unflatten(1, frame.shape[1:])
        out = F.conv2d(out[None], weights[f"{name}.proj.weight"], weights[f"{name}.proj.bias"])
        made.append(out[0] + frame)
    return torch.stack(made, 1)[None]


def vae_clip(weights: Weights, latents: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """[frames, 16, h, w] -> [4·frames - 3, 3, 8h, 8w] in 0..1."""
    scaled = latents * spread[:, None, None] + mean[:, None, None]
    x = F.conv3d(scaled.transpose(0, 1)[None], weights["conv2.weight"], weights["conv2.bias"])
    x = causal(weights, "decoder.conv1", x)
    x = residual(weights, "decoder.middle.0", x)
    x = looked_at(weights, "decoder.middle.1", x)
    x = residual(weights, "decoder.middle.2", x)
    for number in range(15):
        name = f"decoder.upsamples.{number}"
        x = enlarged(weights, name, x) if number in (3, 7, 11) else residual(weights, name, x)
    x = causal(weights, "decoder.head.2", F.silu(unit(x, weights["decoder.head.0.gamma"])))
    return (x[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)


def taehv_clip(weights: Weights, latents: Tensor) -> Tensor:
    """[frames, 16, h, w] -> [4·frames - 3, 3, 8h, 8w] in 0..1."""

    def conv(x: Tensor, name: str) -> Tensor:
        kernel = weights[f"decoder.{name}.weight"]
        return F.conv2d(x, kernel, weights.get(f"decoder.{name}.bias"), padding=kernel.shape[-1] // 2)

    x = F.relu(conv(torch.tanh(latents / 3) * 3, "1"))
    for first in (3, 9, 15):
        for block in range(first, first + 3):
            before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            inner = F.relu(conv(torch.cat([x, before], 1), f"{block}.conv.0"))
            x = F.relu(conv(F.relu(conv(inner, f"{block}.conv.2")), f"{block}.conv.4") + x)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        channels = x.shape[1]
        x = conv(x, f"{first + 4}.conv")
        x = torch.stack(x.split(channels, 1), 1).flatten(0, 1)
        x = conv(x, str(first + 5))
    return conv(F.relu(x), "22")[3:].clamp(0, 1)
