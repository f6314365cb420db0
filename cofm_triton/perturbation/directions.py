"""Radii and directions of a parameter perturbation (paper arXiv 2305.19190, Definition 3.4).

A direction is one tensor per parameter, `{parameter name: tensor}`; a perturbed model has the
parameters `theta + radius * direction`. Directions have norm one per parameter tensor, so a
radius is the distance moved by every tensor:

    ball "inf"  max |direction| = 1                               (the paper's code)
    ball "l2"   largest singular value 1: |.|_2 of a vector       (the paper's definition)

Random directions are normal numbers from a counter-based generator (Philox) keyed by the seed,
the parameter's name and the direction's index. A direction is therefore a function of those three
alone: not of how many are drawn, in which order, on which device or in how many processes.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cofm_triton.step.parameterization import parameterization
from cofm_triton.support.scalars import check_choice, check_int

BALLS = ("inf", "l2")

Direction = dict[str, Tensor]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_LOG_TERMS = 12  # of artanh up to 0.172: the next one is below 1e-19 of the sum
_TURN_TERMS = 11  # of cos and sin up to pi / 4: the next one is below 1e-22

_RATE = re.compile(r"rate_l\d+(_reverse)?$")


def paper_radii() -> Tensor:
    """The paper's grid: 0, then 1e-3 * 2^(i/2) for i = 0..20; (22,) float64, up to 1.024.

    Example:
        >>> paper_radii()[:3].tolist()
        [0.0, 0.001, 0.0014142135623730952]
    """
    steps = [1e-3 * 2 ** (i / 2) for i in range(21)]
    return torch.tensor([0.0, *steps], dtype=torch.float64, device="cpu")


def check_ball(ball: str) -> None:
    """Raises ValueError unless `ball` is one of `BALLS`."""
    check_choice("ball", ball, BALLS)


def norm(tensor: Tensor, ball: str, batch_dims: int = 0) -> Tensor:
    """Norm of one parameter tensor, or of a batch of them.

    Args:
        tensor: (*batch, *shape of the parameter).
        ball: "inf" or "l2"; "l2" of a tensor of two or more dimensions is its spectral norm,
            all dimensions after the first taken together.
        batch_dims: number of leading batch dimensions.

    Returns:
        (*batch,).
    """
    batch, shape = tensor.shape[:batch_dims], tensor.shape[batch_dims:]
    if ball == "inf":
        return tensor.abs().reshape(*batch, -1).amax(-1)
    if len(shape) < 2 or shape[0] == 1 or math.prod(shape[1:]) == 1:
        return tensor.reshape(*batch, -1).norm(dim=-1)
    return torch.linalg.matrix_norm(tensor.reshape(*batch, shape[0], -1), ord=2)


def _normal(seed: int, name: str, indices: Sequence[int], count: int) -> Floats:
    """Standard normal numbers by Box and Muller from Philox, (indices, count) float64: the same bits everywhere.

    numpy promises the bits of the generator across versions and processors, not those of `standard_normal`, `log` and
    `cos`. Here the latter are made of sums, products, quotients and roots, which round alike on every processor.
    """
    pairs = -(-count // 2)
    keys = [np.array((seed, zlib.crc32(name.encode()) << 32 | index), dtype=np.uint64) for index in indices]
    bits = np.stack([np.random.Philox(key=key).random_raw(2 * pairs) for key in keys])
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53  # in (0, 1]
    length, (cosine, sine) = np.sqrt(-2 * _log(uniform[:, :pairs])), _turn(uniform[:, pairs:])
    return np.stack([length * cosine, length * sine], 2).reshape(len(keys), -1)[:, :count]


def _log(u: Floats) -> Floats:
    """log u for u in (0, 1]: u = 2^e m with m near 1, log m = 2 artanh((m - 1) / (m + 1)) by its series."""
    m, e = np.frexp(u)
    low = m < math.sqrt(0.5)
    m, e = np.where(low, 2 * m, m), np.where(low, e - 1, e)
    f = (m - 1) / (m + 1)
    return e * math.log(2) + 2 * f * _series(f * f, [1 / n for n in range(1, 2 * _LOG_TERMS, 2)])


def _turn(u: Floats) -> tuple[Floats, Floats]:
    """cos and sin of 2 pi u: u less its quarters, which is exact, then Taylor's series up to a quarter of pi."""
    quarter = np.floor(4 * u + 0.5)
    angle = 2 * math.pi * (u - 0.25 * quarter)
    square = angle * angle
    cosine = _series(square, [(-1) ** n / math.factorial(2 * n) for n in range(_TURN_TERMS)])
    sine = angle * _series(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(_TURN_TERMS)])
    turns = quarter.astype(np.int64) % 4
    return np.choose(turns, [cosine, -sine, -cosine, sine]), np.choose(turns, [sine, cosine, -sine, -cosine])


def _series(x: Floats, coefficients: list[float]) -> Floats:
    """sum_n coefficients[n] x^n, by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def random_direction(shapes: Mapping[str, torch.Size], index: int, *, seed: int = 0, ball: str = "inf") -> Direction:
    """Random direction number `index` for parameters of the given shapes.

    Args:
        shapes: {parameter name: shape}.
        index: 0 <= index < 2^32, which direction.
        seed: 0 <= seed < 2^64.
        ball: "inf" or "l2", the norm that is one.

    Returns:
        {parameter name: float64 tensor on the CPU}.

    Raises:
        TypeError: index or seed is no integer.
        ValueError: index, seed or ball out of range.

    Example:
        >>> direction = random_direction({"w": torch.Size([3])}, 0, seed=1)
        >>> direction["w"].abs().max().item()
        1.0
    """
    return random_directions(shapes, [index], seed=seed, ball=ball)[0]


def random_directions(
    shapes: Mapping[str, torch.Size], indices: Sequence[int], *, seed: int = 0, ball: str = "inf"
) -> list[Direction]:
    """Several of them in one go; arguments as of `random_direction`."""
    check_ball(ball)
    seed = check_int("seed", seed, below=2**64)
    indices = [check_int("index", index, below=2**32) for index in indices]
    columns = {}
    for name, shape in shapes.items():
        values = torch.from_numpy(_normal(seed, name, indices, shape.numel())).reshape(-1, *shape)
        if values.numel():
            values = values / norm(values, ball, batch_dims=1).reshape(-1, *([1] * len(shape)))
        columns[name] = values
    return [{name: values[j] for name, values in columns.items()} for j in range(len(indices))]


def parameter_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """{name: shape} of every parameter, trainable or not."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def slow_direction(model: nn.Module, *, ball: str = "inf") -> Direction:
    """Towards slower decay: every raw recurrent parameter moves, all other parameters stay.

    The sign is that of lower rates: against the slope of the parameterisation's rate(w). At a
    point without slope (relu below zero) the raw parameter falls; at
    the maximum of "inverse" both ways are slower.

    Args:
        model: a module holding at least one cofm layer (parameters `rate_l0`, `rate_l1`, ...).
        ball: "inf" (every entry moves by the radius) or "l2" (the tensor's 2-norm does).

    Returns:
        {parameter name: float64 tensor on the CPU}, recurrent parameters only.

    Raises:
        ValueError: ball unknown, or a model without recurrent rates.
    """
    check_ball(ball)
    direction: Direction = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # one for a shared parameter
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if _RATE.match(name) and hasattr(module, "parameterization"):
                sign = slower_sign(str(module.parameterization), parameter)
                direction[names[id(parameter)]] = sign / norm(sign, ball)
    if not direction:
        raise ValueError(
            "model must hold a cofm recurrent layer to have a slow direction: "
            f"no rate parameter in {type(model).__name__}"
        )
    return direction


def slower_sign(name: str, raw: Tensor) -> Tensor:
    """Sign of the change of raw recurrent parameters that lowers the rate, float64, CPU."""
    raw = raw.detach().double().cpu()
    rate = parameterization(name).rate
    step = 1e-3  # a symmetric difference: decides next to the maximum of "inverse" as well
    return torch.where(rate(raw + step) < rate(raw - step), 1.0, -1.0).to(torch.float64)
