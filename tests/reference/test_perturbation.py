import math

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import (
    PARAMETERIZATIONS,
    Dynamics,
    normalise,
    paper_radii,
    parameterization,
    perturb,
    perturbation_error,
    random_directions,
    rnn_functional,
    slow_direction,
    targets,
    temporally_weighted_mse,
)


def test_the_papers_radii() -> None:
    radii = paper_radii()
    assert radii.shape == (22,)
    assert radii[0] == 0.0
    assert radii[1] == 0.001
    assert radii[2].item() == pytest.approx(0.0014142135623730952, rel=1e-15)
    assert radii[21].item() == pytest.approx(1.024, rel=1e-15)
    torch.testing.assert_close(radii[2:] / radii[1:-1], torch.full((20,), 2**0.5).double())


def largest_stretch(tensor: Tensor) -> float:
    """max |A x|_2 over |x|_2 = 1, from the eigenvalues of A^T A; a vector is a column."""
    matrix = tensor if tensor.dim() == 2 else tensor[:, None]
    return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].clamp(min=0).sqrt())


@pytest.mark.parametrize("ball", ["inf", "l2"])
def test_directions_are_on_the_sphere_of_every_tensor(det_params: dict[str, Tensor], ball: str) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(8, 3, dtype=torch.float64, generator=generator)
    det_params = {**det_params, "rnn.weight_ih_l0": wide}
    directions = random_directions(det_params, 30, ball=ball)
    assert len(directions) == 30
    origin = {name: torch.zeros_like(p) for name, p in det_params.items()}
    for direction in directions:
        assert direction.keys() == det_params.keys()
        for radius in paper_radii().tolist():
            moved = perturb(origin, direction, radius)
            for name, noise in moved.items():
                assert noise.shape == det_params[name].shape
                if ball == "inf":
                    assert noise.abs().max().item() == pytest.approx(radius, rel=1e-15, abs=1e-15)
                else:  # the square root of an eigenvalue, after a few dozen roundings
                    assert largest_stretch(noise) == pytest.approx(radius, rel=1e-13, abs=1e-15)


def test_directions_are_gaussian_functions_of_the_seed(det_params: dict[str, Tensor]) -> None:
    first, again = (random_directions(det_params, 3, seed=7) for _ in range(2))
    other = random_directions(det_params, 3, seed=8)
    for name in det_params:
        assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["rnn.rate_l0"], first[1]["rnn.rate_l0"])
    assert not torch.equal(first[0]["rnn.rate_l0"], other[0]["rnn.rate_l0"])
    (single,) = random_directions({"w": torch.zeros(20_000, dtype=torch.float64)}, 1, ball="l2")
    w = single["w"] * math.sqrt(20_000)  # entries of a random point on a large sphere
    assert abs(w.mean().item()) < 5 / math.sqrt(20_000)
    # The fourth moment of a Gaussian is 3; its estimate deviates by sqrt(96 / n).
    assert (w**4).mean().item() == pytest.approx(3.0, abs=5 * math.sqrt(96 / 20_000))


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_the_slow_direction_slows_every_unit_and_nothing_else(name: str, beta: float) -> None:
    raw = torch.tensor([-3.0, -0.2, 0.0, 0.7, 2.0], dtype=torch.float64)
    params = {"rnn.rate_l0": raw, "rnn.bias_l0": torch.ones(5, dtype=torch.float64)}
    direction = slow_direction(params, name)
    assert not direction["rnn.bias_l0"].any()
    assert torch.equal(direction["rnn.rate_l0"].abs(), torch.ones(5, dtype=torch.float64))
    rate = parameterization(name).rate
    slower, faster = (rate(raw + side * beta * direction["rnn.rate_l0"]) for side in (1, -1))
    assert (slower <= rate(raw)).all()
    assert (slower <= faster).all()
    if name != "relu":  # its dead units cannot be slower than they are
        assert (slower < rate(raw)).all()


def test_error_of_every_perturbed_model(
    det_params: dict[str, Tensor], det_inputs: Tensor, det_direction: dict[str, Tensor]
) -> None:
    dynamics = Dynamics("direct", "diagonal", "hardtanh", 1.0, "euler")
    inputs = det_inputs[:4, :20]
    outputs = targets.causal_convolution(targets.kernel("pol", 20), inputs)

    def error(params: dict[str, Tensor]) -> Tensor:
        return temporally_weighted_mse(rnn_functional(params, inputs, dynamics), outputs)

    directions = [*random_directions(det_params, 3), det_direction]
    radii = torch.tensor([0.0, 0.1, 0.8], dtype=torch.float64)
    result = perturbation_error(error, det_params, directions, radii)
    assert result.per_direction.shape == (3, 4)
    assert torch.equal(result.error, result.per_direction.max(1).values)
    assert not result.diverged.any()
    for i, radius in enumerate(radii.tolist()):
        for j, direction in enumerate(directions):
            moved = {name: p + radius * direction[name] for name, p in det_params.items()}
            assert result.per_direction[i, j] == error(moved)
    assert (result.per_direction[0] == error(dict(det_params))).all()


def test_diverged_models_count_as_infinite() -> None:
    def error(params: dict[str, Tensor]) -> Tensor:
        w = params["w"]
        return torch.where(w > 2, torch.nan, torch.where(w > 1, torch.inf, w))

    params = {"w": torch.zeros((), dtype=torch.float64)}
    directions = [{"w": torch.tensor(size, dtype=torch.float64)} for size in (1.0, 0.5)]
    radii = torch.tensor([0.5, 1.5, 3.0, 6.0], dtype=torch.float64)
    result = perturbation_error(error, params, directions, radii)
    inf = math.inf
    assert result.per_direction.tolist() == [[0.5, 0.25], [inf, 0.75], [inf, inf], [inf, inf]]
    assert result.diverged.tolist() == [[False, False], [True, False], [True, True], [True, True]]
    assert result.error.tolist() == [0.5, inf, inf, inf]


def test_parameters_without_a_direction_stay() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    moved = perturb(params, {"a": torch.tensor([1.0, -1.0])}, 0.5)
    assert moved["a"].tolist() == [1.5, 0.5]
    assert moved["b"] is params["b"]


def test_unknown_ball() -> None:
    with pytest.raises(ValueError, match="ball"):
        normalise({"w": torch.ones(2)}, "l1")
