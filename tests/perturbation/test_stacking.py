"""Models as stacked coefficients: which ones are understood."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.layers.stable_rnn import RECURRENCES, RNNFunctional
from cofm_triton.perturbation.stacking import WIDEST_PAIRS, has_modes, is_stackable, stack
from cofm_triton.reference import Dynamics, rnn_functional


class Shifted(RNNFunctional):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def test_one_plain_layer_is_understood() -> None:
    assert is_stackable(RNNFunctional(1, 3))
    assert is_stackable(RNNFunctional(2, 3, 4, recurrence="ssm", bias=False))
    for recurrence in RECURRENCES:
        for constrained in (False, True):
            assert is_stackable(RNNFunctional(1, 3, recurrence=recurrence, constrained=constrained))


def test_everything_else_is_left_alone() -> None:
    assert not is_stackable(RNNFunctional(1, 3, num_layers=2))
    assert not is_stackable(RNNFunctional(1, 3, bidirectional=True))
    assert not is_stackable(Shifted(1, 3))
    assert not is_stackable(nn.RNN(1, 3))
    reparametrised = RNNFunctional(1, 3)
    nn.utils.parametrizations.weight_norm(reparametrised.readout)
    assert not is_stackable(reparametrised)


@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("normalize_input", [False, True])
def test_pairs_and_normalised_inputs_are_understood(oscillating: bool, normalize_input: bool) -> None:
    options: dict[str, Any] = dict(oscillating=oscillating, normalize_input=normalize_input)
    for recurrence in ("diagonal", "ssm"):
        linear = RNNFunctional(2, 3, recurrence=recurrence, nonlinearity="linear", **options)
        assert is_stackable(linear) and has_modes(linear)
    inside = RNNFunctional(2, 3, recurrence="diagonal", nonlinearity="tanh", **options)
    assert is_stackable(inside) and has_modes(inside) != oscillating
    assert is_stackable(RNNFunctional(2, 3, recurrence="ssm", nonlinearity="tanh", **options)) != oscillating
    wide = RNNFunctional(1, WIDEST_PAIRS + 1, **options)
    assert is_stackable(wide) != oscillating
    reparametrised = RNNFunctional(2, 3, nonlinearity="linear", **options)
    nn.utils.parametrizations.weight_norm(reparametrised.rnn, "weight_ih_l0")
    assert not is_stackable(reparametrised)


@pytest.mark.parametrize("name", ["linear", "relu"])
@pytest.mark.parametrize("units", [1, 4, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_pairs_are_complex_units(name: str, units: int, bias: bool) -> None:
    """And two real ones each as a matrix: a recurrence of either has the outputs of the definition."""
    model = RNNFunctional(2, units, 3, nonlinearity=name, oscillating=True, normalize_input=True, bias=bias)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        key: torch.randn(2, *value.shape, generator=generator, dtype=torch.float64)
        for key, value in model.named_parameters()
    }
    cells = stack(model, parameters)
    assert cells.is_complex and cells.rate.shape == (2, (units + 1) // 2)
    x = torch.randn(4, 9, 2, generator=generator, dtype=torch.float64)
    dynamics = Dynamics(nonlinearity=name, oscillating=True, normalize_input=True)
    for k in range(2):
        wanted = rnn_functional({key: value[k] for key, value in parameters.items()}, x, dynamics)
        # No error is left of the reference's outputs, but for some 9 roundings of numbers of size 1.
        errors = blocked.sweep_errors(cells[k : k + 1].as_dense(), x, wanted, None)
        assert errors.item() <= 1e-14 * max(1.0, wanted.abs().max().item())


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_parts_that_do_more_than_their_class_says_are_left_alone() -> None:
    other = RNNFunctional(1, 3)
    other.readout = Doubled(3, 1)
    assert not is_stackable(other)
    for part in ("", "rnn", "readout"):
        model = RNNFunctional(1, 3)
        handle = model.get_submodule(part).register_forward_hook(lambda *arguments: None)
        assert not is_stackable(model)
        handle.remove()
        assert is_stackable(model)
