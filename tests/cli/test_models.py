"""What identifies a model of a job: equal digests mean equal results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.cli.jobs.models import NamedModel, load_models
from cofm_triton.cli.options import UsageError
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.model_file import save_model

SOURCE = """
from torch import nn

class Scaled(nn.Linear):
    def forward(self, x):
        return FACTOR * super().forward(x)

def make():
    return Scaled(1, 1)
"""


def digest(module: nn.Module, source: str = "m.safetensors") -> str:
    found: str = NamedModel("m", source, module).as_dict()["sha256"]
    return found


def test_the_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `forward` in the same file, with the same weights and the same representation."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for factor in ("2", "3", "2"):
        (tmp_path / "scaled_model.py").write_text(SOURCE.replace("FACTOR", factor))
        monkeypatch.delitem(sys.modules, "scaled_model", raising=False)
        (model,) = load_models(["scaled_model:make"], "cpu", 0)
        found.append(model.as_dict()["sha256"])
    monkeypatch.delitem(sys.modules, "scaled_model")
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    model = RNNFunctional(1, 3)
    with torch.no_grad():
        model.rnn.rate_l0[1] = value
    save_model(tmp_path / "broken.safetensors", model)
    with pytest.raises(UsageError, match=r"MODEL broken: its parameter rnn\.rate_l0 holds NaN or infinity"):
        load_models([str(tmp_path / "broken.safetensors")], "cpu", 0)


def test_shared_tensors_and_buffers_count() -> None:
    """Equal numbers, but in one tensor; and what no state dict holds."""
    model, tied = (RNNFunctional(2, 2, 2) for _ in range(2))
    tied.load_state_dict(model.state_dict())
    assert digest(model) == digest(tied)
    with torch.no_grad():
        for each in (model, tied):
            each.readout.bias.zero_()
    tied.readout.bias = tied.rnn.bias_l0  # type: ignore[assignment]
    assert digest(model) != digest(tied)
    before = digest(model)
    model.register_buffer("mask", torch.ones(1), persistent=False)
    assert digest(model) != before


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": self.version}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.version = state["version"]

    def forward(self, x: Tensor) -> Tensor:
        return self.version * super().forward(x)


def test_extra_state_counts() -> None:
    model = Extra(1, 1)
    model.version = 1
    before = digest(model)
    model.version = 2
    assert digest(model) != before
