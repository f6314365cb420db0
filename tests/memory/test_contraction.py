"""The bound from the weights alone: never below what inputs do, and as small as slopes allow."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

import cofm_triton as cofm
from cofm_triton.memory.contraction import contraction_bound
from cofm_triton.memory.lyapunov import lyapunov_exponent

KINDS: dict[str, dict[str, Any]] = {
    "ssm": {},
    "learnable steps": dict(recurrence="diagonal", oscillating=False, learnable_dt=True),
    "pairs": dict(recurrence="diagonal", nonlinearity="tanh"),
    "euler": dict(recurrence="diagonal", nonlinearity="hardtanh", oscillating=False, discretization="euler", dt=0.5),
    "dense": dict(recurrence="dense", nonlinearity="tanh"),
    "linear": dict(recurrence="orthogonal", nonlinearity="linear"),
    "loose": dict(recurrence="dense", nonlinearity="tanh", constrained=False, discretization="euler"),
    **{gates: dict(gated=gates) for gates in ("rg_lru", "mingru", "minlstm", "s6")},
}


def layer_of(kind: str, width: int = 5) -> cofm.StableRNN:
    torch.manual_seed(0)
    layer = cofm.StableRNN(2, width, batch_first=True, dtype=torch.float64, **KINDS[kind])
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if "frequency" in name or "hh" in name:
                value.normal_()
    return layer


def largest_jacobian(layer: nn.Module, x: Tensor, states: Tensor) -> float:
    """|J| in the spectral norm, the largest over inputs (n, d) and states (n, D)."""

    def step(h: Tensor, x: Tensor) -> Tensor:
        after: Tensor = layer(x[None, None], h[None, None])[1]
        return after[0, 0]

    jacobians = [jacrev(step)(h, one).detach() for h, one in zip(states, x, strict=True)]
    return float(torch.linalg.matrix_norm(torch.stack(jacobians), 2).max())


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_moves_states_apart_by_more(kind: str) -> None:
    layer = layer_of(kind)
    bound, x = contraction_bound(layer), 3 * torch.randn(20, 2, dtype=torch.float64)
    found = largest_jacobian(layer, x, torch.randn(20, 5, dtype=torch.float64))
    assert found <= bound * (1 + 1e-12)
    if kind in ("ssm", "linear"):
        assert found == pytest.approx(bound, rel=1e-12) == math.exp(-layer.stability_margin())
    assert lyapunov_exponent(layer, x[None], transient=0).largest <= math.log(bound) + 1e-12


@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh", "relu"])
def test_pairs_reach_the_bound_at_the_corners_of_their_slopes(nonlinearity: str) -> None:
    """Slopes of 0 and 1 in all combinations, which some inputs come as near to as one likes."""
    layer = cofm.StableRNN(1, 2, recurrence="diagonal", nonlinearity=nonlinearity, dtype=torch.float64)
    cell: Any = layer._cell.cell(layer, "_l0")
    back = cell.back[0].detach()
    turn = torch.tensor([[back.real, -back.imag], [back.imag, back.real]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    corners = [eye + torch.diag(torch.tensor(s)).double() @ turn for s in product((0.0, 1.0), repeat=2)]
    assert contraction_bound(layer) == pytest.approx(float(torch.linalg.matrix_norm(torch.stack(corners), 2).max()))


@pytest.mark.parametrize("kind", ["euler", "rg_lru", "mingru", "minlstm", "s6"])
def test_bounded_inputs_contract(kind: str) -> None:
    """Without a bound on inputs a unit may saturate, or a gate close; with one the factor is below 1, and true."""
    layer, radius = layer_of(kind), 0.3
    with torch.no_grad():
        layer.weight_ih_l0.mul_(0.5)
    assert contraction_bound(layer) == pytest.approx(1, abs=1e-12)
    bound = contraction_bound(layer, radius)
    corners = torch.tensor([*product((-radius, radius), repeat=2)], dtype=torch.float64)
    x = torch.cat((corners, radius * (2 * torch.rand(30, 2, dtype=torch.float64) - 1)))
    h = torch.zeros(len(x), 5, dtype=torch.float64)
    found = [largest_jacobian(layer, x, h)]
    for _ in range(3):  # states that inputs lead to
        h = layer(x[torch.randint(len(x), (len(x), 40))])[1][0].detach()
        found.append(largest_jacobian(layer, x, h))
    assert max(found) <= bound * (1 + 1e-12) < 1


def test_torch_rnn_and_errors() -> None:
    layer = nn.RNN(2, 3, num_layers=2)
    norms = [
        torch.linalg.matrix_norm(layer.get_parameter(name).detach().double(), 2)
        for name in ("weight_hh_l0", "weight_hh_l1")
    ]
    assert contraction_bound(layer) == pytest.approx(max(norms).item())
    assert contraction_bound(cofm.RNNFunctional(1, 3, nonlinearity="linear")) < 1
    with pytest.raises(TypeError, match=r"layer must be a StableRNN, RNNFunctional or nn.RNN, got GRU"):
        contraction_bound(nn.GRU(2, 3))
    with pytest.raises(ValueError, match="radius must be positive"):
        contraction_bound(layer, 0.0)
