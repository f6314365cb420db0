"""The ascent: it finds the known worst case of a quadratic error."""

from itertools import product

import pytest
import torch

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.perturbation.curve import errors_along
from cofm_triton.perturbation.directions import norm, random_direction, slow_direction
from cofm_triton.perturbation.evaluator import STEERING_SEQUENCES, ErrorEvaluator
from cofm_triton.perturbation.worst_case import ascend


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


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("ball", ["inf", "l2"])
@pytest.mark.parametrize("slow_is_worst", [False, True])
def test_never_below_where_it_starts(slow_is_worst: bool, ball: str, steps: int) -> None:
    """The largest gap is in the last sequence, and grows with the outputs; those that steer have larger errors the
    smaller their outputs are."""
    model = RNNFunctional(1, 4, parameterization="exp", dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (1.0, 0.0, 0.0, 1.0, 0.0), strict=True):
            parameter.fill_(value)
    x = torch.full((STEERING_SEQUENCES + 1, 12, 1), 0.1, dtype=torch.float64)
    y = torch.full_like(x, 5.0)
    y[-1] = -9.0
    evaluator, radii = ErrorEvaluator(x, y, "sup"), torch.tensor([0.1], dtype=torch.float64)
    slow = slow_direction(model, ball=ball)
    assert all(norm(value, ball).item() == 1 for value in slow.values())
    readout = {"readout.bias": torch.ones(1), "readout.weight": torch.ones(1, 4) / norm(torch.ones(1, 4), ball)}
    directions = [*({} for _ in range(9)), {n: (-1 if slow_is_worst else 1) * value for n, value in readout.items()}]
    errors = errors_along(evaluator, model, radii, directions)
    slowed = errors_along(evaluator, model, radii, [slow])
    assert bool(slowed > errors.max()) == slow_is_worst
    worst = ascend(evaluator, model, radii, directions, errors, ball, steps=steps)
    assert bool(worst.error >= torch.cat((errors, slowed), 1).amax(1))
    assert torch.equal(errors_along(evaluator, model, torch.ones(1), worst.perturbations)[0], worst.error)
    assert all(norm(value, ball) <= radii * (1 + 1e-12) for value in worst.perturbations[0].values())
