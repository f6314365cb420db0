from itertools import product

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import (
    Dynamics,
    perturb,
    rnn_functional,
    targets,
    temporally_weighted_mse,
)
from cofm_triton.reference.loss import tail_weights
from cofm_triton.reference.quadratic_form import (
    gram,
    population_moments,
    quadratic_error,
)

EULER = Dynamics("direct", "diagonal", "linear", 1.0, "euler")
DET_ERRORS = [
    ("exp", 0.0, 2.1524360229419),
    ("exp", 0.05, 138.97558499878),
    ("exp", 0.5, 1.6595427785907e34),
    ("pol", 0.0, 5.7481593810659),
    ("pol", 0.05, 134.18808860583),
    ("pol", 0.5, 1.6595427785907e34),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("target", "beta", "expected", "dtype"),
    # Growth by 1.5 a step, at beta = 0.5, leaves float32 no digits.
    [(*case, torch.float64) for case in DET_ERRORS]
    + [(*case, torch.float32) for case in DET_ERRORS if case[1] <= 0.05],
)
def test_brute_force_on_the_deterministic_model(
    det_inputs: Tensor,
    det_params: dict[str, Tensor],
    det_direction: dict[str, Tensor],
    target: str,
    beta: float,
    expected: float,
    dtype: torch.dtype,
) -> None:
    outputs = targets.causal_convolution(targets.kernel(target, 100), det_inputs)
    params = {key: value.to(dtype) for key, value in perturb(det_params, det_direction, beta).items()}
    y = rnn_functional(params, det_inputs.to(dtype), EULER)
    error = temporally_weighted_mse(y.double(), outputs).item()
    assert error == pytest.approx(expected, rel=1e-10 if dtype == torch.float64 else 1e-4)


def test_gram_entries_by_their_definition() -> None:
    x = random(5, 7, 1)
    channels = torch.cat([x, torch.ones_like(x)], 2)
    form = gram(torch.einsum("nip,njq->piqj", channels, channels) / 5)
    v = 7 * torch.arange(1, 8, dtype=torch.float64) ** 2 / 140
    for p, s, q, t in product(range(2), range(7), range(2), range(7)):
        later = range(max(s, t), 7)
        moments = [(channels[:, k - s, p] * channels[:, k - t, q]).mean() for k in later]
        entry = sum(v[k] ** 2 / 7 * r for k, r in zip(later, moments, strict=True))
        torch.testing.assert_close(form[p, s, q, t], entry)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_population_form(std: float) -> None:
    # E = sum_s V_s (kappa_s - rho_s)^2 + sum_{s,s'} V_{max(s,s')} kb_s kb_s'
    z, tails = random(1, 2, 15), tail_weights(15)
    lags = torch.arange(15)
    later = torch.maximum(lags[:, None], lags)
    expected = std**2 * (tails * z[0, 0] ** 2).sum() + z[0, 1] @ tails[later] @ z[0, 1]
    form = gram(population_moments(15, std=std))
    torch.testing.assert_close(quadratic_error(z, form), expected)
