"""Where a model runs, by what the settings and the machine say."""

import pytest
import torch

from services.worker.runner import NoSuchDevice, choose_device


@pytest.mark.parametrize(("has_gpu", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(has_gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert choose_device("auto") == chosen


def test_any_that_torch_knows_may_be_named() -> None:
    assert choose_device("meta") == "meta"
    with pytest.raises(NoSuchDevice, match="abacus can't be used"):
        choose_device("abacus")
