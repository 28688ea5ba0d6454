"""Sizes, schedules and windows, as published."""

import pytest
import torch

from services.worker.models import GeometryError, load_model
from services.worker.models.slots import Layout
from services.worker.models.wan.config import (
    KREA,
    LONGLIVE,
    SELF_FORCING,
    WAN_1_3B,
    WAN_14B,
    Architecture,
    Geometry,
    Recipe,
    WanConfig,
    geometry_of,
)
from services.worker.models.wan.passes import chunk_passes, noise_level, place_of, recache, window_of
from services.worker.models.wan.session import regions
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import VaeDecoder


@pytest.mark.parametrize(
    ("arch", "frame", "window", "cross", "small", "fine"),
    [
        (WAN_1_3B, 287_539_200, 3_450_470_400, 94_371_840, 3_619_124_224, 5_440_605_184),
        (WAN_14B, 1_277_952_000, 15_335_424_000, 419_430_400, 15_829_136_384, 17_650_617_344),
    ],
)
def test_bytes_of_a_session(
    arch: Architecture, frame: int, window: int, cross: int, small: int, fine: int
) -> None:
    config = WanConfig(arch, LONGLIVE)
    assert config.geometry.frame_tokens == 1_560
    assert (config.kv_frame_bytes, config.kv_bytes, config.cross_bytes) == (frame, window, cross)
    assert config.latents_bytes == 2_396_160
    with torch.device("meta"):
        decoders = TaehvDecoder(), VaeDecoder()
    rows = [{r.name: r.size_bytes for r in regions(config, decoder, torch.bfloat16)} for decoder in decoders]
    assert [row["decoder"] for row in rows] == [67_092_480, 1_888_573_440]
    assert [Layout(regions(config, d, torch.bfloat16)).row_bytes for d in decoders] == [small, fine]


def test_small_geometry_of_the_papers_demo() -> None:
    config = WanConfig(WAN_1_3B, LONGLIVE, Geometry(208, 112, 1))
    assert config.geometry.frame_tokens == 91
    assert (config.geometry.first_chunk_frames, config.geometry.chunk_frames) == (1, 4)


def test_chunk_of_three_is_nine_frames_and_then_twelve() -> None:
    assert (Geometry().first_chunk_frames, Geometry().chunk_frames) == (9, 12)


@pytest.mark.parametrize("size", [(830, 480), (832, 488), (0, 480), (832, -16)])
def test_indivisible_pictures_are_refused_with_the_nearest(size: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match=r"multiples of 16 .*nearest is \d+×\d+"):
        Geometry(*size)


def test_windows_without_room_are_refused() -> None:
    with pytest.raises(GeometryError, match="no room for 6"):
        WanConfig(WAN_1_3B, Recipe("short", steps=4, shift=5.0, window_frames=5, context_frames=3))
    with pytest.raises(GeometryError, match="longer than its sink"):
        Recipe("all sink", steps=4, shift=5.0, window_frames=3, sink_frames=3)
    with pytest.raises(GeometryError, match="heads"):
        Architecture("odd", layers=1, dim=50, ffn_dim=8, heads=3)
    with pytest.raises(GeometryError, match="no room for the sink"):
        chunk_passes(LONGLIVE, 30, 3, window_frames=5)


def test_published_timesteps() -> None:
    levels = [1000 * noise_level(step, 4, 5.0) for step in range(5)]
    assert levels == pytest.approx([1000, 937.5, 833.333, 625, 0], abs=1e-3)
    assert [1000 * noise_level(step, 2, 5.0) for step in range(2)] == pytest.approx([1000, 833.333], abs=1e-3)


@pytest.mark.parametrize("recipe", [SELF_FORCING, LONGLIVE])
def test_ring_never_overwrites_what_a_chunk_sees(recipe: Recipe) -> None:
    held: dict[int, int] = {}
    for start in range(0, 300, 3):
        for frame in range(start, start + 3):
            held[place_of(frame, recipe)] = frame
        seen = window_of(start + 3, recipe)
        assert list(seen) == sorted(seen)
        assert seen[-3:] == (start, start + 1, start + 2)
        assert len(seen) == min(start + 3, recipe.window_frames)
        assert set(range(recipe.sink_frames)) <= set(seen)
        assert [held[place_of(frame, recipe)] for frame in seen] == list(seen)
        assert max(held) < recipe.window_frames


def test_passes_of_a_chunk() -> None:
    first = chunk_passes(LONGLIVE, 0, 3)
    assert [p.shape for p in first] == [(3, 3)] * 5
    assert [p.denoises for p in first] == [True] * 4 + [False]
    later = chunk_passes(LONGLIVE, 15, 3, steps=2, new_prompt=True)
    assert [p.shape for p in later] == [(9, 12), (3, 12), (3, 12), (3, 12)]
    assert later[0].from_ring
    assert not any(p.from_ring for p in later[1:])
    assert chunk_passes(LONGLIVE, 0, 3, new_prompt=True) == first
    assert chunk_passes(SELF_FORCING, 15, 3, new_prompt=True) == chunk_passes(SELF_FORCING, 15, 3)


def test_recache_spares_a_sink_older_than_the_window() -> None:
    assert recache(LONGLIVE, 12).shape == (12, 12)
    assert recache(LONGLIVE, 15).written == (6, 7, 8, 9, 10, 11, 3, 4, 5)
    assert recache(LONGLIVE, 15, sink_too=True).shape == (12, 12)


def test_krea_makes_its_context_anew_and_has_no_clean_pass() -> None:
    assert [p.shape for p in chunk_passes(KREA, 0, 3)] == [(3, 3)] * 4
    later = chunk_passes(KREA, 30, 3)
    assert [p.shape for p in later] == [(3, 3)] + [(3, 6)] * 4
    assert later[0].from_ring
    assert later[1].seen[:3] == later[0].seen


def test_a_worker_is_told_its_geometry_in_words() -> None:
    assert geometry_of("832x480") == Geometry()
    assert geometry_of("64x32x1") == Geometry(64, 32, 1)
    assert geometry_of("small").frame_tokens == 91
    with pytest.raises(GeometryError, match="write WIDTHxHEIGHT"):
        geometry_of("832*480")
    with pytest.raises(GeometryError, match=r"nearest is 832×480"):
        load_model("wan2.1-t2v-1.3b", weights_path="random:0", geometry="830x480")
    with pytest.raises(GeometryError, match="no room for 13"):
        load_model("wan2.1-t2v-1.3b", weights_path="random:0", geometry="832x480x13")
    with pytest.raises(GeometryError, match="sprites has one picture size"):
        load_model("sprites", geometry="small")
