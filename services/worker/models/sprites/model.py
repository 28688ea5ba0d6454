"""`sprites` as a `SessionModel`: sessions' states, their denoise steps, and their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from services.worker.models.protocol import ModelSpec, Rung
from services.worker.models.sprites import noise, vocabulary, weights
from services.worker.models.sprites.autoencoder import SPACE_FACTOR, TIME_FACTOR, Autoencoder, Cache
from services.worker.models.sprites.transformer import CHUNK, GRID, WINDOW_CHUNKS, Ring, Transformer, Window
from services.worker.models.sprites.vocabulary import Attributes

FPS = 8.0
MAX_PROMPT_CHARS = 500
_WINDOW_FRAMES = WINDOW_CHUNKS * CHUNK
RUNGS = (Rung("full", 2, _WINDOW_FRAMES, "float32"), Rung("fast", 1, _WINDOW_FRAMES, "float32"))


class Networks(nn.Module):
    """What the weights file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = Autoencoder()
        self.transformer = Transformer()


@dataclass(slots=True)
class State:
    """One session's copy.

    `chunk` counts from the session's first chunk, `picture_chunk` from where the picture (last) began anew;
    both are of the chunk under way or next. `latents` are the last window's clean ones, newest last,
    [4, 3, 16, 12, 20]. `scene` and `next_text_kv` are of the newest prompt, `text_kv` of the chunk under way.
    While a chunk is under way, `noise` is its noise, `latent` its present latents, and
    `levels` the noise levels of the forwards still to come, 0 being the clean pass.
    """

    seed: int
    scene: Attributes
    next_text_kv: Tensor
    text_kv: Tensor
    chunk: int
    picture_chunk: int
    ring: Ring
    latents: Tensor
    decoder: Cache | None = None
    noise: Tensor | None = None
    latent: Tensor | None = None
    levels: tuple[float, ...] = ()


class Sprites:
    """The model on one device. Not thread-safe: the device thread owns it."""

    def __init__(self, networks: Networks, device: torch.device, digest: str) -> None:
        self._networks = networks.to(device).eval().requires_grad_(requires_grad=False)
        self._networks.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._transformer = networks.transformer
        self._device = device
        self.spec = ModelSpec(
            name="sprites",
            width=GRID[1] * SPACE_FACTOR,
            height=GRID[0] * SPACE_FACTOR,
            fps=FPS,
            first_chunk_frames=CHUNK * TIME_FACTOR - (TIME_FACTOR - 1),
            chunk_frames=CHUNK * TIME_FACTOR,
            latent_frames_per_chunk=CHUNK,
            steps=RUNGS[0].steps,
            rungs=RUNGS,
            max_prompt_chars=MAX_PROMPT_CHARS,
            weights_digest=digest,
            state_bytes=self._state_bytes(),
        )

    def prompt_warnings(self, prompt: str) -> tuple[str, ...]:
        return vocabulary.read(prompt).warnings

    @torch.inference_mode()
    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        scene = vocabulary.attributes(vocabulary.read(prompt).named)
        latents = torch.zeros(WINDOW_CHUNKS, *noise.SHAPE, device=self._device)
        ring = Ring.empty(self._device)
        text_kv = self._text_kv(scene)
        return State(seed, scene, text_kv, text_kv, first_chunk, 0, ring, latents)

    @torch.inference_mode()
    def set_prompt(self, state: State, prompt: str) -> None:
        state.scene = vocabulary.attributes(vocabulary.read(prompt).named, state.scene)
        state.next_text_kv = self._text_kv(state.scene)

    @torch.inference_mode()
    def begin_chunk(self, state: State, rung: Rung) -> int:
        # The same noise serves every step: they follow one straight line from it, as they did in training.
        state.noise = noise.draw(state.seed, state.chunk).to(self._device)
        state.latent, state.text_kv = state.noise, state.next_text_kv
        state.levels = (*(1 - step / rung.steps for step in range(rung.steps)), 0.0)
        state.ring.begin(state.picture_chunk)
        return len(state.levels)

    @torch.inference_mode()
    def forward(self, states: Sequence[State]) -> None:
        clean = self._transformer(
            torch.stack([_under_way(s.latent) for s in states]),
            torch.tensor([[s.levels[0]] * CHUNK for s in states], device=self._device),
            torch.tensor([float(s.picture_chunk == 0) for s in states], device=self._device),
            torch.cat([s.text_kv for s in states]),
            Window([s.ring for s in states], [s.picture_chunk for s in states]),
        )
        for state, latents in zip(states, clean, strict=True):
            _advance(state, latents)

    @torch.inference_mode()
    def decode(self, state: State) -> Tensor:
        latents = _under_way(state.latent)
        frames, state.decoder = self._networks.autoencoder.decode(latents[None], state.decoder)
        state.latents = torch.cat([state.latents[1:], latents[None]])
        state.chunk, state.picture_chunk = state.chunk + 1, state.picture_chunk + 1
        state.noise = state.latent = None
        pixels = frames[0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().contiguous()

    @torch.inference_mode()
    def export_state(self, state: State) -> dict[str, Tensor]:
        """Between two chunks only."""
        assert state.latent is None, "a state is exported between two chunks"
        counters = [state.seed, state.chunk, state.picture_chunk, *state.scene]
        tensors = {"counters": torch.tensor(counters), "kv": state.ring.kv, "latents": state.latents}
        tensors |= {f"decoder.{layer}": past for layer, past in enumerate(state.decoder or [])}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    @torch.inference_mode()
    def import_state(self, tensors: Mapping[str, Tensor]) -> State:
        seed, chunk, picture_chunk, *values = tensors["counters"].tolist()
        scene: Attributes = (values[0], values[1], values[2], values[3], values[4], values[5])
        held = {name: tensor.to(self._device, copy=True) for name, tensor in tensors.items()}
        decoder = [held[name] for name in sorted(held) if name.startswith("decoder.")]
        ring, text_kv = Ring(held["kv"]), self._text_kv(scene)
        return State(
            seed, scene, text_kv, text_kv, chunk, picture_chunk, ring, held["latents"], decoder or None
        )

    def _text_kv(self, scene: Attributes) -> Tensor:
        return self._transformer.text_kv(torch.tensor([vocabulary.token_ids(scene)], device=self._device))

    def _state_bytes(self) -> int:
        """Measured on a copy that has made a chunk."""
        with torch.inference_mode():
            latents = torch.zeros(1, *noise.SHAPE, device=self._device)
            _, decoder = self._networks.autoencoder.decode(latents)
            text_kv = self._text_kv(vocabulary.attributes(vocabulary.read("").named))
        ring = Ring.empty(self._device)
        kept = [ring.kv, ring.turned, text_kv, latents.expand(WINDOW_CHUNKS, *noise.SHAPE), *decoder]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _under_way(latent: Tensor | None) -> Tensor:
    assert latent is not None, "begin_chunk comes first"
    return latent


def _advance(state: State, clean: Tensor) -> None:
    """After a forward: along the line from noise to `clean`; the clean pass changes no latents."""
    level, *rest = state.levels
    state.levels = tuple(rest)
    if level > 0:
        following = rest[0]
        state.latent = (1 - following) * clean + following * _under_way(state.noise)


def load(device: str, weights_path: str = "") -> Sprites:
    """The model with its weights on `device`. Raises `WeightsError`."""
    torch.set_num_threads(1)
    path = Path(weights_path) if weights_path else weights.SHIPPED
    tensors, digest = weights.read(path)
    networks = Networks()
    weights.fill(networks, tensors, path)
    return Sprites(networks, torch.device(device), digest)
