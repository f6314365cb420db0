"""A default device other than the CPU, as `torch.set_default_device("cuda")` makes it, is not for CPU tensors to see.

The meta device stands in for a GPU: a tensor that is made on it by mistake has no numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.perturbation.verdict import limit_radius

RECURRENCES = (("diagonal", "tanh"), ("diagonal", "linear"), ("orthogonal", "hardtanh"), ("dense", "tanh"))


def _differs(measure: Callable[[], Tensor]) -> bool:
    usual = measure()
    with torch.device("meta"):
        other = measure()
    assert other.device.type == "cpu"
    return not torch.equal(usual, other)


def _model(recurrence: str, nonlinearity: str) -> cofm.RNNFunctional:
    torch.manual_seed(0)
    return cofm.RNNFunctional(1, 3, recurrence=recurrence, nonlinearity=nonlinearity, dtype=torch.float64)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("scan", [cofm.linear_scan, cofm.rnn_scan, cofm.dense_rnn])
def test_scans(scan: Callable[..., tuple[Tensor, Tensor]], backend: str) -> None:
    x, coefficients = torch.ones(2, 70, 3), 0.5 * torch.ones(3)
    if scan is cofm.dense_rnn:
        coefficients = torch.diag(coefficients)

    def gradients() -> Tensor:
        leaves = [x.clone().requires_grad_(), coefficients.clone().requires_grad_()]
        h, last = scan(*leaves, backend=backend)
        return torch.cat([g.flatten() for g in torch.autograd.grad(h.sum() + last.sum(), leaves)])

    assert not _differs(gradients)


@pytest.mark.parametrize("kind", RECURRENCES, ids="-".join)
def test_models(kind: tuple[str, str]) -> None:
    model, x = _model(*kind), torch.ones(9, 40, 1, dtype=torch.float64)
    assert not _differs(lambda: model(x).detach())


@pytest.mark.parametrize("search", ["random", "gradient"])
@pytest.mark.parametrize("ball", ["inf", "l2"])
@pytest.mark.parametrize("kind", RECURRENCES, ids="-".join)
def test_perturbations(kind: tuple[str, str], ball: str, search: str) -> None:
    model, x = _model(*kind), torch.ones(9, 8, 1, dtype=torch.float64)

    def error() -> Tensor:
        return cofm.perturbation_error(model, x, x, radii=[0.1], directions=2, ball=ball, search=search).error

    assert not _differs(error)


@pytest.mark.parametrize("kind", [*RECURRENCES, ("GRU", "")], ids="-".join)
def test_memory(kind: tuple[str, str]) -> None:
    model = nn.GRU(1, 3, batch_first=True, dtype=torch.float64) if kind[0] == "GRU" else _model(*kind)
    assert not _differs(lambda: cofm.memory_function(model, 60, input_size=1).values)
    assert not _differs(lambda: torch.tensor(cofm.memory_function(model, 60, input_size=1).fit().rate, device="cpu"))
    assert not _differs(lambda: cofm.memory_sweep(model, 60, radii=[0.1], directions=2, input_size=1).values)


def test_radii_of_the_limit() -> None:
    assert not _differs(lambda: torch.tensor(limit_radius("exp", 50), device="cpu"))
