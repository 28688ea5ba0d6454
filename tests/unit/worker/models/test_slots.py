"""Who takes a slot finds zeros, whatever lay in it before."""

import torch

from services.worker.models.slots import Layout, Pool, Region


def pool(slots: int) -> Pool:
    return Pool(Layout([Region("a", (3,), torch.float32)]), slots, torch.device("cpu"))


def test_a_slot_is_wiped_when_it_is_given_back() -> None:
    made = pool(2)
    slot = made.take()
    made.row(slot).fill_(7)
    made.give_back(slot)
    assert made.row(slot).count_nonzero() == 0


def test_what_was_tried_out_on_free_slots_is_unreadable_to_their_owners() -> None:
    made = pool(3)
    held = made.take()
    for slot in range(3):
        made.row(slot).fill_(7)
    made.soil()
    assert [int(made.row(made.take()).count_nonzero()) for _ in range(2)] == [0, 0]
    assert made.row(held).count_nonzero() == made.row_bytes
