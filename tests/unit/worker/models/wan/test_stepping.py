"""Graphs by shape, noise drawn ahead, and the choice among forms: what of it needs no GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan.attention import fastest
from services.worker.models.wan.choose import Chooser
from services.worker.models.wan.form import PLAIN, Wishes
from services.worker.models.wan.frames import copied_later, pixels
from services.worker.models.wan.graphs import Capture, Graphs, Replay, Uncaptured
from services.worker.models.wan.model import Wan
from services.worker.models.wan.noise_ahead import NoiseAhead
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.turned import Workspace
from tests.unit.worker.models.wan.test_forms import FULL, latents, model

CPU = torch.device("cpu")


class Counted(Uncaptured):
    """Captures as a device without graphs does. `fails`: from that capture on."""

    def __init__(self, fails: int = 100) -> None:
        self.warm: list[bool] = []
        self.replays = 0
        self._fails = fails

    def __call__(self, work: Callable[[], Tensor], *, warm: bool) -> tuple[Replay, Tensor]:
        self.warm.append(warm)
        if len(self.warm) >= self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        replay, out = super().__call__(work, warm=True)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted, out


def captured(wished: Wishes, capture: Capture, limit: int = 64) -> Wan:
    made = model(wished)
    made._stepper._graphs = Graphs(capture, limit)
    return made


def played(made: Wan) -> list[Tensor]:
    states = [made.open(seed=seed, prompt="a cat") for seed in (3, 4)]
    results = [latents(made, [state], FULL, 6) for state in states]
    made.set_prompt(states[1], "a dog")
    return [*results, latents(made, states, FULL, 2), latents(made, states[1:], FULL, 1)]


@pytest.mark.parametrize("window", ["gather", "turned"])
def test_replayed_is_computed(window: str) -> None:
    wished, counted = Wishes(pieces="eager", window=window), Counted()
    for mine, wanted in zip(played(captured(wished, counted)), played(model(wished)), strict=True):
        assert torch.equal(mine, wanted)
    assert counted.replays > 20
    # one row: a graph for every slot where the window is read in place, of which only the first is warmed up
    assert counted.warm == ([False, True, True, False] if window == "turned" else [False, False])


def test_a_failed_capture_leaves_everything_uncaptured() -> None:
    wished, counted = Wishes(pieces="eager", window="turned"), Counted(fails=2)
    for mine, wanted in zip(played(captured(wished, counted)), played(model(wished)), strict=True):
        assert torch.equal(mine, wanted)
    assert len(counted.warm) == 2


def test_more_shapes_than_graphs_run_uncaptured() -> None:
    wished, counted = Wishes(pieces="eager"), Counted()
    made = captured(wished, counted, limit=1)
    for mine, wanted in zip(played(made), played(model(wished)), strict=True):
        assert torch.equal(mine, wanted)
    assert len(counted.warm) == 1


def test_noise_ahead_is_the_noise_drawn() -> None:
    ahead = NoiseAhead((2, 3), pinned=False)
    ahead.want(7, 1, range(4))
    for step in (0, 3, 1, 2, 1, 9):
        assert torch.equal(ahead.take(7, 1, step), draw((2, 3), 7, 1, step))
    for seed in range(200):
        ahead.want(seed, 0, [0])
    assert len(ahead._drawn) <= 64
    assert torch.equal(ahead.take(0, 0, 0), draw((2, 3), 0, 0, 0))
    ahead.close()


def test_nothing_drawn_ahead_stays_of_who_has_left() -> None:
    made = model(Wishes())
    states = [made.open(seed=seed, prompt="a street") for seed in (1, 2)]
    for state in states:
        made.begin_chunk(state, made.spec.rungs[0])
        made.forward([state])
    stays, leaves = states
    made.close(leaves)
    assert {key[0] for key in made._noise._drawn} == {stays.seed}
    made.close(stays)
    assert not made._noise._drawn


def test_the_fastest_that_computes_the_same_is_taken() -> None:
    wanted = draw((64,), 1, 1)

    def broken() -> Tensor:
        raise RuntimeError("no kernel image is available")

    def slow() -> Tensor:
        for _ in range(2000):
            wanted.clone()
        return wanted

    name, took = fastest(
        {"slow": slow, "wrong": lambda: -wanted, "broken": broken, "quick": lambda: wanted}, CPU
    )
    assert name == "quick"
    assert set(took) == {"slow", "quick"}
    with pytest.raises(RuntimeError, match="itself failed"):
        fastest({"wrong": lambda: wanted * torch.nan}, CPU)


def test_without_kernels_the_plain_form_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    made = model(Wishes())
    kv, cross = made.pool["kv"], made.pool["cross"]
    swift = Swift(made._transformer, turned=Workspace(kv, cross.dtype))
    forms = Chooser(made._config, swift, kv, cross).forms(Wishes())
    assert set(forms) == {PLAIN}
    chooser = Chooser(made._config, swift, kv, cross)
    wished = chooser.forms(
        Wishes(pieces="eager", window="turned", attention="default", cross="default", gelu=False)
    )
    assert wished.alone.pieces in {"eager", "plain"}
    assert wished.elsewhere.window == "gather"
    assert {"one row", "two rows"} <= set(chooser.took)


def test_pictures_arrive_as_they_were_made() -> None:
    frames = draw((2, 3, 4, 6), 1, 1).clamp(0, 1)
    arrived = copied_later(pixels(frames))()
    assert arrived.shape == (2, 4, 6, 3)
    assert torch.equal(arrived, (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
