"""The shipped model through the protocol."""

import pytest
import torch
from torch import Tensor

from services.worker.models import load_model
from services.worker.models.protocol import SessionModel, State
from services.worker.models.sprites.judge import Judge, Sight
from services.worker.models.sprites.vocabulary import SLOTS
from services.worker.models.sprites.world import phase_of

PROMPT = "a big green heart moving left over the sea"


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


def test_spec_is_what_the_frames_are(model: SessionModel) -> None:
    state, spec = model.open(seed=1, prompt=PROMPT), model.spec
    assert model.begin_chunk(state, spec.rungs[0]) == spec.steps + 1
    for _ in range(spec.steps + 1):
        model.forward([state])
    first = model.decode(state)
    assert first.shape == (spec.first_chunk_frames, spec.height, spec.width, 3)
    assert first.dtype == torch.uint8
    assert make_chunk(model, [state])[0].shape[0] == spec.chunk_frames


def test_same_seed_and_prompt_same_frames_and_another_seed_others(model: SessionModel) -> None:
    one, two, other = (model.open(seed=seed, prompt=PROMPT) for seed in (5, 5, 6))
    for _ in range(2):
        first, second, third = (make_chunk(model, [state])[0] for state in (one, two, other))
        assert torch.equal(first, second)
        assert not torch.equal(first, third)


def test_an_exported_copy_goes_on_bit_for_bit(model: SessionModel) -> None:
    state = model.open(seed=3, prompt=PROMPT)
    for _ in range(5):
        make_chunk(model, [state])
    model.set_prompt(state, "now white")
    copy = model.import_state(model.export_state(state))
    for _ in range(2):
        assert torch.equal(make_chunk(model, [state])[0], make_chunk(model, [copy])[0])


def test_an_export_does_not_change_with_its_session(model: SessionModel) -> None:
    state = model.open(seed=3, prompt=PROMPT)
    make_chunk(model, [state])
    exported = model.export_state(state)
    before = {name: tensor.clone() for name, tensor in exported.items()}
    make_chunk(model, [state])
    assert all(torch.equal(exported[name], tensor) for name, tensor in before.items())


def test_rows_of_one_forward_are_as_alone(model: SessionModel) -> None:
    """Rows that differ in prompt, fill of the window, and denoise step."""

    def pair() -> list[State]:
        old, new = model.open(seed=1, prompt=PROMPT), model.open(seed=2, prompt="a red ball at night")
        make_chunk(model, [old])
        return [old, new]

    together, alone = pair(), pair()
    for states in (together, alone):
        assert model.begin_chunk(states[0], model.spec.rungs[0]) == 3
        assert model.begin_chunk(states[1], model.spec.rungs[1]) == 2
        model.forward([states[0]])
    for _ in range(2):
        model.forward(together)
        for state in alone:
            model.forward([state])
    for one, two in zip(together, alone, strict=True):
        difference = model.decode(one).int() - model.decode(two).int()
        assert difference.abs().max() <= 1


def test_a_prompt_set_during_a_chunk_waits_for_the_next(model: SessionModel) -> None:
    steered, left_alone = (model.open(seed=4, prompt=PROMPT) for _ in range(2))
    forwards = max(model.begin_chunk(state, model.spec.rungs[1]) for state in (steered, left_alone))
    model.set_prompt(steered, "now red")
    for _ in range(forwards):
        model.forward([steered])
        model.forward([left_alone])
    assert torch.equal(model.decode(steered), model.decode(left_alone))
    assert not torch.equal(make_chunk(model, [steered])[0], make_chunk(model, [left_alone])[0])


def test_a_lost_session_begins_a_picture_with_the_noise_of_its_chunk(model: SessionModel) -> None:
    fresh, lost = model.open(seed=9, prompt=PROMPT), model.open(seed=9, prompt=PROMPT, first_chunk=7)
    first, again = make_chunk(model, [fresh])[0], make_chunk(model, [lost])[0]
    assert again.shape == first.shape
    assert not torch.equal(first, again)


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


def test_forty_chunks_on_the_scene_holds_and_the_state_has_not_grown(model: SessionModel) -> None:
    state = model.open(seed=12, prompt="a big blue ball bouncing over the meadow")
    for _ in range(6):
        make_chunk(model, [state])
    size = sum(tensor.nbytes for tensor in model.export_state(state).values())
    for _ in range(33):
        frames = make_chunk(model, [state])
    sight = look(frames, {"background": "meadow"})
    assert sight.colour.tolist() == [SLOTS["colour"].index("blue")]
    assert sight.ground_db.min() > 24
    assert sum(tensor.nbytes for tensor in model.export_state(state).values()) == size
