"""The ascent: it finds the known worst case of a quadratic error."""

from itertools import product

import pytest
import torch

from cofm_triton.directions import random_direction
from cofm_triton.layers import RNNFunctional
from cofm_triton.model_errors import ErrorEvaluator
from cofm_triton.perturbation import errors_along
from cofm_triton.worst_case import ascend


@pytest.mark.parametrize("ball", ["inf", "l2"])
def test_worst_read_out_of_a_linear_model(ball: str) -> None:
    """Against the model's own output E is a convex quadratic form of the read-out's change: its
    largest value in a ball is an eigenvalue (l2) or at a corner (inf), when nothing else matters."""
    torch.manual_seed(1)
    model = RNNFunctional(1, 4, nonlinearity="linear", dtype=torch.float64)
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.zero_()
    x = torch.randn(30, 12, 1, dtype=torch.float64)
    evaluator = ErrorEvaluator(x, torch.zeros_like(x), "twe")
    radius = 1e-6  # with a zero read-out only the read-out changes the output to first order
    radii = torch.tensor([radius], dtype=torch.float64)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    directions = [random_direction(shapes, j, ball=ball) for j in range(5)]
    errors = errors_along(evaluator, model, radii, directions)
    worst = ascend(evaluator, model, radii, directions, errors, ball)

    units = [torch.eye(5, dtype=torch.float64)[i] for i in range(5)]
    corners = [torch.tensor(c, dtype=torch.float64) for c in product((-1.0, 1.0), repeat=5)]

    def split(change: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"readout.weight": change[None, :4], "readout.bias": change[4:]}

    if ball == "inf":
        best = errors_along(evaluator, model, radii, [split(c) for c in corners]).max()
    else:
        # weight and bias have a ball each: the maximum over both of a form with blocks
        pairs = [u + v for u, v in product(units, repeat=2)]
        values = errors_along(evaluator, model, torch.ones(1, dtype=torch.float64), [split(p) for p in pairs])
        form = values.reshape(5, 5)
        diagonal = form.diagonal() / 4
        matrix = (form - diagonal[:, None] - diagonal) / 2
        angles = torch.randn(200_000, 4, dtype=torch.float64)
        change = torch.nn.functional.pad(angles / angles.norm(dim=1, keepdim=True), (0, 1), value=1.0)
        best = ((change @ matrix) * change).sum(1).max() * radius**2
    assert worst.error.item() >= best.item() * (1 - 1e-3)
    assert worst.error.item() >= errors.max().item()


def test_radius_zero_moves_nothing() -> None:
    model = RNNFunctional(1, 3, dtype=torch.float64)
    x = torch.randn(4, 5, 1, dtype=torch.float64)
    evaluator = ErrorEvaluator(x, x, "mse")
    radii = torch.zeros(1, dtype=torch.float64)
    directions = [random_direction({n: p.shape for n, p in model.named_parameters()}, 0)]
    errors = errors_along(evaluator, model, radii, directions)
    worst = ascend(evaluator, model, radii, directions, errors, "inf", steps=3)
    assert worst.error.item() == pytest.approx(errors.item(), rel=1e-12)
    assert all(not value.any() for value in worst.perturbations[0].values())
