from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.worker.models import UnknownModel, WeightsError, load_model
from services.worker.models.sprites.weights import SHIPPED


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as raised:
        load_model("sprites", weights_path=str(path))
    message = str(raised.value)
    assert str(path) in message
    assert "leave weights_path empty" in message
    return message


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match=r"'dragons'.*known: .*sprites"):
        load_model("dragons")


def test_missing_file(tmp_path: Path) -> None:
    assert "can't be read" in refused(tmp_path / "none.safetensors")


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:100_000])
    assert "not a whole safetensors file" in refused(path)


def test_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"layers.0.weight": torch.zeros(3)}, path)
    message = refused(path)
    assert "is missing" in message
    assert "more" in message


@pytest.mark.parametrize(
    ("spoilt", "said"), [(torch.zeros(2, 2), r"is [2, 2] instead of"), (None, "holds NaN or infinity")]
)
def test_one_spoilt_tensor(tmp_path: Path, spoilt: torch.Tensor | None, said: str) -> None:
    tensors = load_file(SHIPPED)
    name = "transformer.patch.weight"
    tensors[name] = tensors[name] * float("nan") if spoilt is None else spoilt
    path = tmp_path / "spoilt.safetensors"
    save_file(tensors, path)
    message = refused(path)
    assert name in message
    assert said in message
