"""Checkpoints in every published layout, and those that can't be used."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from services.worker.models import WeightsError, load_model
from services.worker.models.noise import draw
from services.worker.models.wan import config as wan_config
from services.worker.models.wan import random_weights
from services.worker.models.wan.check import check
from services.worker.models.wan.checkpoint import read, read_folder
from services.worker.models.wan.config import LONGLIVE, SELF_FORCING, WAN_1_3B, WanConfig
from services.worker.models.wan.loading import (
    digest,
    load_decoder,
    load_transformer,
    published_shapes,
)
from services.worker.models.wan.preset import load_preset, slots_that_fit
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.text import StandInEncoder
from services.worker.models.wan.transformer import Transformer
from services.worker.models.wan.vae import VaeDecoder
from tests.unit.worker.models.wan import tiny

CPU, FLOAT = torch.device("cpu"), torch.float32
DIFFUSERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",
}
DIFFUSERS_OUTER = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "patch_embedding": "patch_embedding",
}


def diffusers(name: str) -> str:
    if name == "head.modulation":
        return "scale_shift_table"
    stem, _, leaf = name.rpartition(".")
    if not name.startswith("blocks."):
        return f"{DIFFUSERS_OUTER[stem]}.{leaf}"
    blocks, number, rest = name.split(".", 2)
    if rest == "modulation":
        return f"{blocks}.{number}.scale_shift_table"
    return f"{blocks}.{number}.{DIFFUSERS[rest.rpartition('.')[0]]}.{leaf}"


def transformer() -> Transformer:
    with torch.device("meta"):
        return Transformer(tiny.config())


def load(path: Path, lora: Path | None = None) -> Transformer:
    module = transformer()
    load_transformer(module, read(path), tiny.ARCH, CPU, FLOAT, read(lora) if lora else None)
    return module


def save_shards(folder: Path, tensors: dict[str, Tensor]) -> Path:
    names = list(tensors)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = folder / "part.safetensors.index.json"
    weight_map = {name: file for file, held in parts.items() for name in held}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def save_wrapped(folder: Path, key: str, prefix: str) -> Path:
    path = folder / "model.pt"
    wrapped = {f"{prefix}{name}": tensor for name, tensor in tiny.published().items()}
    others = {"critic": {"model.x": torch.zeros(1)}, "generator": {"model.y": torch.zeros(1)}, "step": 5}
    torch.save({**others, key: wrapped}, path)
    return path


def save_half(folder: Path) -> Path:
    path = folder / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in tiny.published().items()}, path)
    return path


def save_diffusers(folder: Path) -> Path:
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({diffusers(name): tensor for name, tensor in tiny.published().items()}, path)
    return path


def save_legacy(folder: Path) -> Path:
    path = folder / "old.pth"
    torch.save(tiny.published(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize(
    "save",
    [
        lambda folder: save_shards(folder, tiny.published()),
        lambda folder: save_wrapped(folder, "generator", "model."),
        lambda folder: save_wrapped(folder, "generator_ema", "model._fsdp_wrapped_module."),
        save_diffusers,
        save_legacy,
        save_half,
    ],
    ids=["shards", "self-forcing", "ema", "diffusers", "legacy-pth", "float16"],
)
def test_every_published_layout_makes_the_same_transformer(tmp_path: Path, save: Any) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(tiny.published(), plain)
    expected, made = load(plain).state_dict(), load(save(tmp_path)).state_dict()
    tolerance = 1e-2 if save is save_half else 0
    torch.testing.assert_close(dict(made), dict(expected), atol=tolerance, rtol=tolerance)
    assert {tensor.dtype for tensor in made.values()} == {FLOAT}


def test_low_rank_updates_want_the_generator_that_is_not_averaged(tmp_path: Path) -> None:
    path = tmp_path / "both.pt"
    plain = {"model.patch_embedding.weight": torch.zeros(2)}
    torch.save({"generator": plain, "generator_ema": {name: t + 1 for name, t in plain.items()}}, path)
    assert read(path).tensors["patch_embedding.weight"].tolist() == [1, 1]
    assert read(path, averaged=False).tensors["patch_embedding.weight"].tolist() == [0, 0]


def test_published_shapes_are_the_tiny_files_names() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tiny.published().items()}
    assert published_shapes(tiny.ARCH) == shapes
    assert len(published_shapes(WAN_1_3B)) == 825
    parameters = sum(torch.Size(shape).numel() for shape in published_shapes(WAN_1_3B).values())
    assert parameters == 1_418_996_800


def test_low_rank_update_is_added(tmp_path: Path) -> None:
    plain, low_rank = tmp_path / "plain.safetensors", tmp_path / "lora.pt"
    save_file(tiny.published(), plain)
    name = "base_model.model.blocks.1.ffn.0.lora_{}.weight"
    down, up = draw((4, tiny.ARCH.dim), 1, 1), draw((tiny.ARCH.ffn_dim, 4), 1, 2)
    torch.save({"generator_lora": {name.format("A"): down, name.format("B"): up}}, low_rank)
    before, after = load(plain).state_dict(), load(plain, low_rank).state_dict()
    changed = "blocks.1.ffn.0.weight"
    torch.testing.assert_close(after[changed], before[changed] + up @ down)
    assert all(torch.equal(after[key], before[key]) for key in before if key != changed)
    torch.save({name.format("A"): down, name.format("B"): up.T}, low_rank)
    with pytest.raises(WeightsError, match="fits no weight"):
        load(plain, low_rank)


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as raised:
        load(path)
    message = str(raised.value)
    assert path.name in message
    return message


def spoilt(folder: Path, change: Mapping[str, Tensor | None]) -> Path:
    tensors = {**tiny.published(), **change}
    path = folder / "spoilt.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_missing_and_unknown_tensors_are_named_and_counted(tmp_path: Path) -> None:
    gone: dict[str, Tensor | None] = {
        f"blocks.0.self_attn.{part}.weight": None for part in ("q", "k", "v", "o")
    }
    message = refused(spoilt(tmp_path, {**gone, "surprise": torch.zeros(1)}))
    assert "blocks.0.self_attn.q.weight is missing; blocks.0.self_attn.k.weight is missing" in message
    assert "and 2 more" in message
    assert "surprise is unknown" in refused(spoilt(tmp_path, {"surprise": torch.zeros(1)}))


def test_other_shapes_and_values_are_named(tmp_path: Path) -> None:
    name = "blocks.1.ffn.2.weight"
    assert f"{name} is [3] instead of [48, 64]" in refused(spoilt(tmp_path, {name: torch.zeros(3)}))
    bad = tiny.published()[name].clone()
    bad[3, 3] = torch.nan
    assert f"{name} holds NaN" in refused(spoilt(tmp_path, {name: bad}))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    extra = {f"blocks.2.{part}": torch.zeros(1) for part in ("a", "b")}
    assert "has 3 layers of width 48, but tiny has 2 of 48" in refused(spoilt(tmp_path, extra))
    image = {"patch_embedding.weight": torch.zeros(48, 36, 1, 2, 2)}
    assert "36 input channels instead of 16" in refused(spoilt(tmp_path, image))
    foreign = tmp_path / "foreign.safetensors"
    save_file({"conv_in.weight": torch.zeros(1)}, foreign)
    assert "something unknown (conv_in.weight)" in refused(foreign)


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    whole = save_wrapped(tmp_path, "generator", "model.")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:20_000])
    assert "truncated" in refused(cut)
    plain = spoilt(tmp_path, {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(plain.read_bytes()[:20_000])
    assert "truncated" in refused(cut)
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "none of .safetensors" in refused(tmp_path / "model.gguf")
    index = save_shards(tmp_path, tiny.published())
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part-2\.safetensors can't be read"):
        read(index)
    index.write_text('{"weight_map": {"a": "../../outside.safetensors"}}')
    with pytest.raises(WeightsError, match="outside its folder"):
        read(index)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for number, save in enumerate((torch.save, lambda it, path: path.write_bytes(pickle.dumps(it, 2)))):
        path = tmp_path / f"trap{number}.pt"
        save({"generator": tiny.published(), "trap": Trap(sprung)}, path)
        assert "more than tensors" in refused(path)
    assert not sprung.exists()


def random_decoder(decoder: nn.Module) -> dict[str, Tensor]:
    random_weights.fill(decoder, 5, CPU, FLOAT)
    return dict(decoder.state_dict())


@pytest.mark.parametrize(
    ("decoder", "extra"),
    [
        (lambda: VaeDecoder((32, 32, 32, 16, 8)), ("encoder.conv1.weight", "conv1.weight", "conv1.bias")),
        (lambda: TaehvDecoder(tiny.DECODER_WIDTHS), ("encoder.0.weight", "encoder.0.bias")),
    ],
)
def test_decoders_load_and_leave_the_encoder(tmp_path: Path, decoder: Any, extra: tuple[str, ...]) -> None:
    tensors = random_decoder(decoder())
    path = tmp_path / "decoder.pth"
    torch.save({**tensors, **{name: torch.zeros(2) for name in extra}}, path)
    made = decoder()
    load_decoder(made, read(path), CPU, FLOAT)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in made.state_dict().items())
    wrong = TaehvDecoder(tiny.DECODER_WIDTHS) if isinstance(made, VaeDecoder) else VaeDecoder()
    with pytest.raises(WeightsError, match=f"is no {wrong.name} decoder but a {made.name}"):
        load_decoder(wrong, read(path), CPU, FLOAT)


def test_growth_trained_for_more_frames_uses_the_last(tmp_path: Path) -> None:
    tensors = random_decoder(TaehvDecoder(tiny.DECODER_WIDTHS))
    doubled = {**tensors, "decoder.7.conv.weight": tensors["decoder.7.conv.weight"].repeat(2, 1, 1, 1) * 1}
    doubled["decoder.7.conv.weight"][:16] = 9
    save_file(doubled, tmp_path / "taew.safetensors")
    made = TaehvDecoder(tiny.DECODER_WIDTHS)
    load_decoder(made, read(tmp_path / "taew.safetensors"), CPU, FLOAT)
    assert torch.equal(made.state_dict()["decoder.7.conv.weight"], tensors["decoder.7.conv.weight"])


def test_check_says_what_a_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_shards(tmp_path, tiny.published())
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "zz.safetensors")
    shards, foreign = check(tmp_path)
    assert "2 layers of width 48, which is no preset" in shards.problems[0]
    assert foreign.kind == "unknown"
    assert not foreign.fits
    monkeypatch.setitem(wan_config.ARCHITECTURES, "tiny", tiny.ARCH)
    (report,) = check(save_diffusers(tmp_path))
    assert report.fits
    assert (report.kind, report.layout, report.architecture) == ("transformer", "diffusers", "tiny")
    assert (report.dtypes, report.problems) == (("float32",), ())
    assert report.parameters == sum(tensor.numel() for tensor in tiny.published().values())
    bad = tiny.published()["head.head.bias"] / 0
    (report,) = check(spoilt(tmp_path, {"head.head.bias": bad, "head.modulation": None}))
    assert report.problems == ("head.modulation is missing", "head.head.bias holds NaN or infinity")


def test_folder_makes_a_model_and_a_lora_makes_it_longlive(tmp_path: Path) -> None:
    save_file(tiny.published(), tmp_path / "transformer.safetensors")
    save_file(random_decoder(TaehvDecoder()), tmp_path / "taew2_1.safetensors")
    encoder = StandInEncoder(tiny.ARCH)

    def loaded() -> Any:
        return load_preset(
            tiny.ARCH,
            SELF_FORCING,
            "cpu",
            str(tmp_path),
            encoder=encoder,
            geometry=tiny.FRAME_GEOMETRY,
            slots=1,
        )

    plain = loaded()
    state = plain.open(seed=1, prompt="")
    for _ in range(plain.begin_chunk(state, plain.spec.rungs[0])):
        plain.forward([state])
    assert plain.decode(state).shape == (1, 16, 16, 3)
    assert plain.spec.rungs[0].window_latent_frames == SELF_FORCING.window_frames
    name = "blocks.0.self_attn.q.lora_{}.weight"
    low_rank = {name.format("A"): draw((2, 48), 1, 1), name.format("B"): draw((48, 2), 1, 2)}
    save_file(low_rank, tmp_path / "lora.safetensors")
    steered = loaded()
    assert steered.spec.rungs[0].window_latent_frames == LONGLIVE.window_frames
    assert steered.spec.weights_digest not in (plain.spec.weights_digest, "")
    assert steered.prompt_warnings("x") == ()
    assert load_preset(tiny.ARCH, LONGLIVE, "cpu", str(tmp_path), slots=1).spec.text_encoder == "umt5-xxl"
    (tmp_path / "taew2_1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no vae \(lora\.safetensors: lora"):
        loaded()
    save_file(tiny.published(), tmp_path / "twice.safetensors")
    with pytest.raises(WeightsError, match="2 files of kind transformer"):
        loaded()
    assert [each.kind for each in read_folder(tmp_path)] == ["lora", "transformer", "transformer"]


def test_presets_without_weights_say_what_to_do(tmp_path: Path) -> None:
    for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b"):
        with pytest.raises(WeightsError, match=r"ships no weights.*random:SEED"):
            load_model(name)
    for weights in ("random:x", "random:0+large"):
        with pytest.raises(WeightsError, match="a number follows"):
            load_model("wan2.1-t2v-1.3b", weights_path=weights)
    with pytest.raises(WeightsError, match="holds no weights file"):
        load_preset(tiny.ARCH, LONGLIVE, "cpu", str(tmp_path), encoder=StandInEncoder(tiny.ARCH))


def test_slots_are_what_the_device_has_room_for() -> None:
    slot, weights = 3_618_525_184, 2_837_993_600
    assert slots_that_fit(85_000_000_000, weights, slot) == 20
    assert slots_that_fit(12_000_000_000, weights, slot) == 0
    assert slots_that_fit(2_000_000_000, weights, slot) < 0


def test_random_weights_are_told_apart_by_their_seed_and_the_same_for_one() -> None:
    one, same, other = (tiny.model(seed=seed) for seed in (1, 1, 2))
    sums = [digest(model._transformer, model._decoder) for model in (one, same, other)]  # type: ignore[arg-type]
    assert sums[0] == sums[1] != sums[2]
    assert other.spec.weights_digest == "random:2"


def test_random_weights_come_with_either_decoder() -> None:
    small, large = (
        load_preset(tiny.ARCH, LONGLIVE, "cpu", f"random:0{painter}", geometry=tiny.GEOMETRY).spec
        for painter in ("", "+vae")
    )
    assert small.architecture != large.architecture
    assert small.state_bytes < large.state_bytes


def test_full_size_modules_have_the_published_tensors() -> None:
    with torch.device("meta"):
        module = Transformer(WanConfig(WAN_1_3B, LONGLIVE))
    shapes = {name: tuple(t.shape) for name, t in module.state_dict().items() if ".qkv." not in name}
    wanted = published_shapes(WAN_1_3B)
    split = {name for name in wanted if any(f".self_attn.{part}." in name for part in "qkv")}
    assert shapes == {name: shape for name, shape in wanted.items() if name not in split}
