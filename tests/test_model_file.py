from pathlib import Path
from typing import Any

import pytest
import torch

from cofm_triton.layers import RNNFunctional
from cofm_triton.model_file import load_model, read_notes, save_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nonlinearity": "linear", "parameterization": "direct", "discretization": "euler"},
        {"recurrence": "ssm", "nonlinearity": "tanh", "dt": 0.25, "bias": False},
        {"num_layers": 2, "parameterization": "inverse"},
    ],
)
def test_round_trip_restores_options_and_bits(tmp_path: Path, options: dict[str, Any], dtype: torch.dtype) -> None:
    model = RNNFunctional(2, 3, 4, dtype=dtype, **options)
    path = tmp_path / "model.safetensors"
    save_model(path, model, {"target": "exp"})
    copy = load_model(path)
    assert repr(copy) == repr(model)
    state = model.state_dict()
    assert copy.state_dict().keys() == state.keys()
    for name, value in copy.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, state[name])
    assert read_notes(path) == {"target": "exp"}


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = RNNFunctional(1, 5)
    for name in ("a", "b"):
        save_model(tmp_path / name, model, {"x": 1, "y": [2, 3]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_refuses_other_models_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model must be an RNNFunctional, got Linear"):
        save_model(tmp_path / "m", torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    path = tmp_path / "text"
    path.write_text("not a model")
    with pytest.raises(ValueError, match="path must be a cofm model file"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent")
