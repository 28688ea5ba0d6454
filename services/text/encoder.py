"""umT5's encoder on its device: from a cleaned prompt to what cross-attention reads. Device thread only."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from services.text.files import EncoderError, EncoderFiles, Tensors, read, some
from shared.contracts.text import TextEncoded

MAX_WORDS = 512
"""The reference cuts there; the last word is the one that ends a text."""
_NUMBER_BYTES = 2
_SAMPLE = 4096


class Encoder:
    """Gives the same for the same prompt, whatever was encoded before: one prompt at a time, no padding."""

    def __init__(self, model: UMT5EncoderModel, tokenizer: Tokenizer, digest: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.digest = digest
        self.device = str(model.device)
        self.dim = int(model.config.d_model)

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self._model.parameters())

    @property
    def answer_bytes(self) -> int:
        """Of the longest embedding."""
        return MAX_WORDS * self.dim * _NUMBER_BYTES

    @torch.inference_mode()
    def encode(self, prompt: str) -> TextEncoded:
        words = self._tokenizer.encode(prompt)
        ids = torch.tensor([words.ids], device=self._model.device)
        embedding = self._model(input_ids=ids).last_hidden_state[0].to(torch.bfloat16).cpu()
        return TextEncoded(
            words=len(embedding),
            dim=self.dim,
            dtype="bfloat16",
            embedding=embedding.contiguous().view(torch.uint8).numpy().tobytes(),
            digest=self.digest,
            cut=bool(words.overflowing),
        )


def load(weights_path: str, device: str, dtype: str) -> Encoder:
    """Raises `EncoderError`."""
    place, numbers = _device(device), getattr(torch, dtype)
    found = read(weights_path)
    tokenizer = _tokenizer(found)
    config = _config(found)
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    found.tensors["encoder.embed_tokens.weight"] = found.tensors.get("shared.weight", torch.empty(0))
    _check(found.tensors, model)
    moved = {name: tensor.to(place, numbers) for name, tensor in found.tensors.items()}
    spoilt = [name for name, tensor in moved.items() if not torch.isfinite(tensor).all()]
    if spoilt:
        raise EncoderError(f"weights in {weights_path} hold NaN or infinity: {some(spoilt)}")
    model.load_state_dict(moved, assign=True)
    model.encoder.set_input_embeddings(model.shared)  # one table, not two
    return Encoder(model.eval().requires_grad_(requires_grad=False), tokenizer, _digest(found))


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"device {wanted!r} can't be used: {str(error).splitlines()[0]}") from None


def _tokenizer(found: EncoderFiles) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(found.tokenizer))
    except Exception as error:  # noqa: BLE001 the library raises nothing narrower
        raise EncoderError(f"tokenizer {found.tokenizer} can't be used: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_WORDS)
    return tokenizer


def _config(found: EncoderFiles) -> UMT5Config:
    if not found.config:
        return _config_of(found.tensors)
    try:
        return UMT5Config(**found.config)
    except Exception as error:  # noqa: BLE001 the library raises nothing narrower
        raise EncoderError(f"config.json beside the weights can't be used: {error}") from None


def _config_of(tensors: Tensors) -> UMT5Config:
    """What a file without config.json says by its shapes; the rest is the same for every umT5."""
    try:
        vocabulary, dim = tensors["shared.weight"].shape
        first = "encoder.block.0.layer"
        buckets, heads = tensors[f"{first}.0.SelfAttention.relative_attention_bias.weight"].shape
        inner = tensors[f"{first}.0.SelfAttention.q.weight"].shape[0]
        wide = tensors[f"{first}.1.DenseReluDense.wi_0.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise EncoderError(f"the weights are no umT5 encoder ({error}; they hold {some(tensors)})") from None
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=inner // heads,
        d_ff=wide,
        num_heads=heads,
        num_layers=len({name.split(".")[2] for name in tensors if name.startswith("encoder.block.")}),
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )


def _check(tensors: Tensors, model: UMT5EncoderModel) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = {
        "lack": wanted.keys() - tensors.keys(),
        "hold what an umT5 encoder has not:": tensors.keys() - wanted.keys(),
        "have another shape than the configuration says:": {
            name for name in wanted.keys() & tensors.keys() if tuple(tensors[name].shape) != wanted[name]
        },
    }
    said = "; ".join(f"{problem} {some(names)}" for problem, names in problems.items() if names)
    if said:
        raise EncoderError(f"the weights {said}")


def _digest(found: EncoderFiles) -> str:
    """Of the tokenizer, and of every tensor's name, shape and a spread sample of its values: enough to tell
    encoders apart.
    """
    sum_ = hashlib.sha256(found.tokenizer.read_bytes())
    for name, tensor in sorted(found.tensors.items()):
        sum_.update(f"{name} {tuple(tensor.shape)};".encode())
        sample: Any = tensor.flatten()[:: max(1, tensor.numel() // _SAMPLE)].float()
        sum_.update(sample.numpy().tobytes())
    return sum_.hexdigest()
