"""Products in eight bits but for those that are spared."""

import pytest
import torch

from services.worker.models.wan import random_weights
from services.worker.models.wan.pieces import TorchPieces
from services.worker.models.wan.products import Products, Trial, joined, made_products, names
from services.worker.models.wan.transformer import Block
from tests.unit.worker.models.wan import tiny


@pytest.fixture
def block() -> Block:
    with torch.device("meta"):
        block = Block(tiny.ARCH)
    random_weights.fill(block, 1, torch.device("cpu"), torch.float32)
    return block.requires_grad_(requires_grad=False)


def test_what_is_spared_stays_as_it_is(block: Block) -> None:
    kinds = made_products(block, fp8=True, spared=joined(["o+cross_o", "", "up"]))
    assert [name for name, product in kinds._asdict().items() if not product.fp8] == ["o", "cross_o", "up"]
    assert not any(product.fp8 for product in made_products(block, fp8=False))


@pytest.mark.parametrize("gelu", [False, True])
def test_every_way_to_compute_a_product_is_close_to_16_bits(block: Block, gelu: bool) -> None:
    ways = Trial(block, TorchPieces(), 20, gelu=gelu, native=False).ways()
    assert sorted(n for each in ways.values() for n in names(next(iter(each)))) == sorted(Products._fields)
    for each in ways.values():
        wanted, *others = (work() for work in each.values())
        for made in others:
            assert 0.0001 < (made - wanted).norm() / wanted.norm() < 0.1
