"""Sessions in slots, through the protocol."""

import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from services.worker.models.conformance import check
from services.worker.models.conformance.tensors import Saved, restore, save
from services.worker.models.protocol import PastChunk, Rung, SessionModel
from services.worker.models.slots import NoSlot
from services.worker.models.wan.chunks import batch_key
from services.worker.models.wan.config import KREA, LONGLIVE, SELF_FORCING, Geometry, Recipe, WanConfig
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.session import State
from tests.unit.worker.models.wan import tiny

PROMPT, LATER = "a red ball rolls over the sand", "and now it snows"


def make_chunk(model: Wan, state: State, rung: int = 0) -> Tensor:
    for _ in range(model.begin_chunk(state, model.spec.rungs[rung])):
        model.forward([state])
    return model.decode(state)


def chunks(model: Wan, state: State, count: int) -> list[Tensor]:
    return [make_chunk(model, state) for _ in range(count)]


def kept(model: Wan, state: State) -> dict[str, Tensor]:
    return {name: model.pool[name][state.slot].clone() for name in ("kv", "cross", "latents", "decoder")}


def test_spec_is_what_the_frames_are() -> None:
    model: SessionModel = tiny.model()
    state, spec = model.open(seed=1, prompt=PROMPT), model.spec
    assert model.begin_chunk(state, spec.rungs[0]) == spec.steps + 1
    for _ in range(spec.steps + 1):
        model.forward([state])
    first = model.decode(state)
    assert first.shape == (spec.first_chunk_frames, spec.height, spec.width, 3)
    assert first.dtype == torch.uint8
    assert model.begin_chunk(state, spec.rungs[1]) == 3
    assert spec.weights_digest == "random:1"
    assert "random weights" in model.prompt_warnings(PROMPT)[0]
    assert spec.state_bytes == model.memory(state).nbytes


@pytest.mark.parametrize("recipe", [LONGLIVE, KREA])
def test_every_promise_is_kept(recipe: Recipe) -> None:
    """With two slots, which is all that the checks may take."""
    assert not [
        result for result in check(tiny.model(recipe, slots=2), long_run_chunks=2) if not result.passed
    ]


@pytest.mark.parametrize("recipe", [LONGLIVE, SELF_FORCING, KREA])
def test_same_seed_and_prompt_same_frames_and_another_seed_others(recipe: Recipe) -> None:
    model = tiny.model(recipe)
    one, two, other = (model.open(seed=seed, prompt=PROMPT) for seed in (5, 5, 6))
    for _ in range(2):
        first, second, third = (make_chunk(model, state) for state in (one, two, other))
        assert torch.equal(first, second)
        assert not torch.equal(first, third)


def test_rows_of_one_forward_are_as_alone() -> None:
    """Rows that differ in ring position, fill, denoise step, prompt, and what they are for (one recaches)."""

    def crowd(model: Wan) -> list[State]:
        states = [model.open(seed=n, prompt=f"{PROMPT} {n}") for n in range(4)]
        for state, count in zip(states, (5, 6, 1, 7), strict=True):
            chunks(model, state, count)
        model.set_prompt(states[3], LATER)
        lengths = [model.begin_chunk(s, model.spec.rungs[n % 2]) for n, s in enumerate(states)]
        assert lengths == [5, 3, 5, 4]
        model.forward([states[0]])
        return states

    together, alone = tiny.model(), tiny.model()
    many, few = crowd(together), crowd(alone)
    for step in range(5):
        rows = [number for number, state in enumerate(many) if state.passes]
        if step == 0:
            keys = [batch_key(state)[:2] for state in many]
            assert keys == [(3, 12), (3, 12), (3, 6), (9, 12)]
        together.forward([many[number] for number in (reversed(rows) if step % 2 else rows)])
        for number in rows:
            alone.forward([few[number]])
    for one, other in zip(many, few, strict=True):
        torch.testing.assert_close(one.latent, other.latent, atol=1e-4, rtol=1e-4)
        difference = together.decode(one).int() - alone.decode(other).int()
        assert difference.abs().max() <= 1
        torch.testing.assert_close(kept(together, one), kept(alone, other), atol=5e-4, rtol=1e-3)


def test_a_forward_that_fails_for_some_rows_moves_nobody_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def crowd(model: Wan) -> list[State]:
        young, older = (model.open(seed=n, prompt=PROMPT) for n in range(2))
        chunks(model, older, 5)
        for state in (young, older):
            model.begin_chunk(state, model.spec.rungs[0])
        return [young, older]

    def end(model: Wan, state: State) -> Saved:
        for _ in range(5):
            model.forward([state])
        model.decode(state)
        return save(model, state)

    model, undisturbed = tiny.model(), tiny.model()
    both, step = crowd(model), model._stepper.step

    def only_young(states: list[State], latents: list[torch.Tensor]) -> torch.Tensor:
        if both[1] in states:
            raise RuntimeError("no room for so long a window")
        return step(states, latents)

    monkeypatch.setattr(model._stepper, "step", only_young)
    with pytest.raises(RuntimeError, match="no room"):
        model.forward(both)
    assert [len(state.passes) for state in both] == [5, 5]
    one, other = end(model, both[0]), end(undisturbed, crowd(undisturbed)[0])
    assert (one.memory == other.memory).all()


def test_rows_at_one_batch_shape_are_bit_equal_whoever_is_beside_them() -> None:
    def beside(others: tuple[int, int]) -> Saved:
        model = tiny.model(slots=3)
        states = [model.open(seed=seed, prompt=f"{PROMPT} {seed}") for seed in (8, *others)]
        for _ in range(6):
            for state in states:
                model.begin_chunk(state, model.spec.rungs[0])
            for _ in range(5):
                model.forward(states)
            for state in states:
                model.decode(state)
        return save(model, states[0])

    one, other = beside((1, 2)), beside((33, 44))
    assert one.counters == other.counters
    assert (one.memory == other.memory).all()


@pytest.mark.parametrize("recipe", [LONGLIVE, KREA])
def test_carried_copy_goes_on_bit_for_bit_elsewhere(recipe: Recipe) -> None:
    here, there = tiny.model(recipe), tiny.model(recipe)
    state = here.open(seed=3, prompt=PROMPT)
    somebody = there.open(seed=9, prompt="in the first slot")
    chunks(here, state, 6)
    here.set_prompt(state, LATER)
    copy = restore(there, save(here, state))
    assert copy.slot != state.slot == somebody.slot
    for _ in range(2):
        assert torch.equal(make_chunk(here, state), make_chunk(there, copy))
    assert torch.equal(here.pool.row(state.slot), there.pool.row(copy.slot))


def test_prompt_not_yet_begun_with_is_carried_bit_for_bit() -> None:
    here, there = tiny.model(), tiny.model()
    state = here.open(seed=3, prompt=PROMPT)
    chunks(here, state, 5)
    here.begin_chunk(state, here.spec.rungs[0])
    here.set_prompt(state, LATER)
    for _ in range(here.spec.steps + 1):
        here.forward([state])
    here.decode(state)
    copy = restore(there, save(here, state))
    assert copy.new_text
    assert torch.equal(make_chunk(here, state), make_chunk(there, copy))
    assert not copy.new_text


@pytest.mark.parametrize(("recipe", "pieces"), [(LONGLIVE, 4), (SELF_FORCING, 7), (KREA, 2)])
def test_a_chunk_changes_its_own_place_of_the_ring_and_a_recache_all_but_the_sink(
    recipe: Recipe, pieces: int
) -> None:
    model = tiny.model(recipe)
    state = model.open(seed=4, prompt=PROMPT)

    def written(prompt: str = "") -> list[int]:
        before = model.parts(state)
        if prompt:
            model.set_prompt(state, prompt)
        make_chunk(model, state)
        after = model.parts(state)
        return [n for n in range(pieces) if after[f"ring.{n}"].version != before[f"ring.{n}"].version]

    assert written() == [0]
    chunks(model, state, pieces - 1)
    assert written() == {LONGLIVE: [1], SELF_FORCING: [0], KREA: [0, 1]}[recipe]
    assert written(LATER) == {LONGLIVE: [1, 2, 3], SELF_FORCING: [1], KREA: [0, 1]}[recipe]


def test_reused_slot_is_unreadable_to_its_next_owner() -> None:
    model = tiny.model(slots=1)
    state = model.open(seed=1, prompt=PROMPT)
    chunks(model, state, 5)
    slot = state.slot
    assert model.pool.row(slot).count_nonzero() > 0
    model.close(state)
    assert model.reserve().slot == slot
    assert model.pool.row(slot).count_nonzero() == 0


def test_full_pool_refuses_and_slots_come_back_once() -> None:
    model = tiny.model(slots=2)
    one, two = (model.open(seed=seed, prompt="") for seed in (1, 2))
    with pytest.raises(NoSlot, match="all 2 slots"):
        model.open(seed=3, prompt="")
    model.close(one)
    three = model.open(seed=3, prompt="")
    model.close(one)
    assert model.pool.free_slots == 0
    del two
    gc.collect()
    assert model.pool.free_slots == 1
    assert three.slot == one.slot


def test_poison_in_one_session_stays_in_it() -> None:
    model = tiny.model()
    states = [model.open(seed=seed, prompt=PROMPT) for seed in (1, 2, 3, 2)]
    for state in states:
        chunks(model, state, 2)
    sick, beside_sick, healthy, beside_healthy = states
    model.pool.row(sick.slot).fill_(255)  # NaN in every type of numbers
    for state in states:
        model.begin_chunk(state, model.spec.rungs[0])
    for _ in range(5):
        model.forward([sick, beside_sick])
        model.forward([healthy, beside_healthy])
    assert sick.latent is not None
    assert sick.latent.isnan().all()
    assert torch.equal(model.decode(beside_sick), model.decode(beside_healthy))


def test_prompt_set_during_a_chunk_waits_for_the_next() -> None:
    model = tiny.model()
    steered, left_alone = (model.open(seed=4, prompt=PROMPT) for _ in range(2))
    for state in (steered, left_alone):
        model.begin_chunk(state, model.spec.rungs[0])
    model.set_prompt(steered, LATER)
    for _ in range(5):
        model.forward([steered, left_alone])
    assert torch.equal(model.decode(steered), model.decode(left_alone))
    assert not torch.equal(make_chunk(model, steered), make_chunk(model, left_alone))


def test_recache_leaves_an_old_sink_and_rewrites_the_rest() -> None:
    model = tiny.model()
    state = model.open(seed=4, prompt=PROMPT)
    chunks(model, state, 6)
    before = kept(model, state)["kv"]
    model.set_prompt(state, LATER)
    assert model.begin_chunk(state, model.spec.rungs[0]) == 6
    model.forward([state])
    changed = (kept(model, state)["kv"] != before).flatten(3).any(-1)[-1, 1]
    assert changed.tolist() == [False] * 3 + [True] * 9


def test_lost_session_begins_a_picture_with_the_noise_of_its_chunk() -> None:
    model = tiny.model()
    fresh, lost = model.open(seed=9, prompt=PROMPT), model.open(seed=9, prompt=PROMPT, first_chunk=7)
    first, again = make_chunk(model, fresh), make_chunk(model, lost)
    assert again.shape == first.shape
    assert not torch.equal(first, again)


def past_of(model: Wan, made: int) -> list[PastChunk]:
    """The sink's and the newest chunks' latents, of the session of seed 3."""
    state, past = model.open(seed=3, prompt=PROMPT), []
    for _ in range(made):
        make_chunk(model, state)
        past.append(model.latents(state))
    assert sum(chunk.latents.nbytes for chunk in past[-4:]) < model.spec.state_bytes / 4
    return past if made <= 4 else [past[0], *past[-model.spec.recent_chunks :]]


@pytest.mark.parametrize("made", [3, 6])
def test_rebuilt_from_latents_it_goes_on_much_the_same(made: int) -> None:
    model = tiny.model()
    state, stranger = model.open(seed=3, prompt=PROMPT), model.open(seed=4, prompt=LATER)
    for other in (state, stranger):
        chunks(model, other, made)
    copy = model.rebuild(seed=3, prompt=PROMPT, past=past_of(model, made))
    assert (copy.seed, copy.chunk, copy.frames) == (state.seed, state.chunk, state.frames)
    mine, theirs, others = (kept(model, s)["kv"] for s in (state, copy, stranger))
    assert (mine - theirs).norm() < 0.5 * (mine - others).norm()
    went_on, rebuilt, elsewhere = (make_chunk(model, s).float() for s in (state, copy, stranger))
    assert (went_on - rebuilt).norm() < 0.5 * (went_on - elsewhere).norm()


class Flat(nn.Module):
    """A decoder that costs nothing: every frame is its latents' mean."""

    name = "flat"

    def cache_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]:  # noqa: ARG002
        return [(1,)]

    def decode(self, latents: Tensor, cache: Tensor, *, first: bool) -> Tensor:  # noqa: ARG002
        return latents.mean((1, 2, 3))[:, None, None, None].expand(-1, 3, 16, 16).repeat_interleave(4, 0)


def test_no_index_ever_runs_out() -> None:
    """1,500 chunks pass any table of positions; full windows are all of one shape."""
    model = random_model(
        WanConfig(replace(tiny.ARCH, layers=1), LONGLIVE, tiny.FRAME_GEOMETRY, element_bytes=4),
        dtype=torch.float32,
        decoder=Flat(),
    )
    state, rung, shapes = model.open(seed=12, prompt=PROMPT), Rung("one", 1, 12, "float32"), set()
    for chunk in range(1_500):
        forwards = model.begin_chunk(state, rung)
        shapes |= {each.shape for each in state.passes} if chunk >= 12 else set()
        for _ in range(forwards):
            model.forward([state])
        model.decode(state)
    assert shapes == {(1, 12)}
    assert (state.chunk, state.frames) == (1_500, 1_500)
    assert all(tensor.isfinite().all() for tensor in kept(model, state).values())
