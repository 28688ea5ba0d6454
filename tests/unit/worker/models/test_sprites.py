"""The shipped model: it keeps the protocol's promises, and paints what was asked for."""

import pytest
import torch
from torch import Tensor

from services.worker.models import load_model
from services.worker.models.conformance import check
from services.worker.models.protocol import SessionModel, State
from services.worker.models.sprites.judge import Judge, Sight
from services.worker.models.sprites.vocabulary import SLOTS
from services.worker.models.sprites.world import phase_of


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return load_model("sprites")


def make_chunk(model: SessionModel, states: list[State], rung: int = 1) -> list[Tensor]:
    forwards = max(model.begin_chunk(state, model.spec.rungs[rung]) for state in states)
    for _ in range(forwards):
        model.forward(states)
    return [model.decode(state) for state in states]


def look(frames: list[Tensor], scene: dict[str, str]) -> Sight:
    """At the last frames of later chunks."""
    values = torch.tensor(
        [[SLOTS[slot].index(scene.get(slot, options[0])) for slot, options in SLOTS.items()]]
    )
    count = len(frames)
    return Judge().look(
        torch.stack([f[-1] for f in frames]), values.repeat(count, 1), torch.full((count,), phase_of(8))
    )


@pytest.mark.timeout(300)
def test_every_promise_is_kept(model: SessionModel) -> None:
    failed = [result for result in check(model, long_run_chunks=2) if not result.passed]
    assert not failed


def test_colours_and_shapes_are_those_asked_for_and_a_change_shows_at_once(model: SessionModel) -> None:
    asked = [("red", "ball"), ("yellow", "star"), ("blue", "box"), ("white", "heart")]
    states = [
        model.open(seed=i, prompt=f"a big {c} {s} orbits before a plain wall")
        for i, (c, s) in enumerate(asked)
    ]
    make_chunk(model, states)
    sight = look(make_chunk(model, states), {"background": "plain"})
    assert sight.colour.tolist() == [SLOTS["colour"].index(colour) for colour, _ in asked]
    assert sight.shape.tolist() == [SLOTS["shape"].index(shape) for _, shape in asked]
    for state in states:
        model.set_prompt(state, "now purple, please, and in the desert")
    sight = look(make_chunk(model, states), {"background": "desert"})
    assert sight.colour.tolist() == [SLOTS["colour"].index("purple")] * 4
    assert sight.ground_db.min() > 24


def test_forty_chunks_on_the_scene_holds(model: SessionModel) -> None:
    state = model.open(seed=12, prompt="a big blue ball bouncing over the meadow")
    for _ in range(6):
        make_chunk(model, [state])
    for _ in range(33):
        frames = make_chunk(model, [state])
    sight = look(frames, {"background": "meadow"})
    assert sight.colour.tolist() == [SLOTS["colour"].index("blue")]
    assert sight.ground_db.min() > 24
    assert len(model.memory(state)) == model.spec.state_bytes
