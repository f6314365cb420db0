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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cofm_triton.step.parameterization import parameterization
from cofm_triton.support.normal_numbers import normal_numbers
from cofm_triton.support.scalars import as_int, as_number, check_choice, check_int, described

BALLS = ("inf", "l2")

Direction = dict[str, Tensor]
Directions = Sequence[Mapping[str, Tensor]]

SEARCHES = ("random", "slow", "gradient")

_LENGTH_SLACK = 1e-5  # directions that were normalised in float32
_RATE = re.compile(r"rate_l\d+(_reverse)?$")


def paper_radii() -> Tensor:
    """The paper's grid: 0, then 1e-3 * 2^(i/2) for i = 0..20; (22,) float64, up to 1.024.

    Example:
        >>> paper_radii()[:3].tolist()
        [0.0, 0.001, 0.0014142135623730952]
    """
    steps = [1e-3 * 2 ** (i / 2) for i in range(21)]
    return torch.tensor([0.0, *steps], dtype=torch.float64, device="cpu")


def check_radii(radii: Tensor | Sequence[float] | None) -> Tensor:
    """The radii as a float64 tensor, the paper's when None."""
    if radii is None:
        return paper_radii()
    plain: Any = radii
    if isinstance(radii, Sequence):
        plain = [radius if as_number(radius) is None else as_number(radius) for radius in radii]
    try:
        given = torch.as_tensor(plain, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"radii must be a list of numbers, got {radii!r}") from None
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"radii must be real numbers, got {radii!r}")
    if given.dim() != 1 or len(given) == 0:
        raise ValueError(f"radii must be a non-empty list of numbers, got {radii!r}")
    if not isinstance(radii, Tensor) and any(as_number(radius) is None for radius in plain):
        raise TypeError(f"radii must be a list of numbers, got {radii!r}")
    # A list is read once more: PyTorch's default dtype would round its numbers.
    grid = given.double() if isinstance(radii, Tensor) else torch.as_tensor(plain, dtype=torch.float64, device="cpu")
    if not bool(((grid >= 0) & grid.isfinite()).all()):
        raise ValueError(f"radii must be finite and not negative, got {radii!r}")
    return grid


def check_moves(
    family: Sequence[nn.Module],
    radii: Tensor | Sequence[float] | None,
    directions: int | Directions,
    *,
    seed: int,
    search: str,
    ball: str,
) -> tuple[Tensor, list[Directions]]:
    """Radii, and the directions of each model; arguments and errors of `perturbation_error`."""
    grid = check_radii(radii)
    check_ball(ball)
    check_choice("search", search, SEARCHES)
    return grid, [_directions_of(model, directions, seed, search, ball) for model in family]


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
        values = torch.from_numpy(normal_numbers(seed, name, indices, shape.numel())).reshape(-1, *shape)
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
    for name, parameter, kind in raw_rates(model):
        sign = slower_sign(kind, parameter)
        direction[name] = sign / norm(sign, ball)
    return direction


def raw_rates(model: nn.Module) -> list[tuple[str, nn.Parameter, str]]:
    """Name, raw recurrent parameter and name of its parameterisation, for each that a model has.

    Raises:
        ValueError: it has none.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # one for a shared parameter
    found = [
        (names[id(parameter)], parameter, str(module.parameterization))
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if _RATE.match(name) and hasattr(module, "parameterization")
    ]
    if not found:
        raise ValueError(
            "model must hold a cofm recurrent layer to have a slow direction: "
            f'no rate parameter in {type(model).__name__}; search="random" takes any module'
        )
    return found


def slower_sign(name: str, raw: Tensor) -> Tensor:
    """Sign of the change of raw recurrent parameters that lowers the rate, float64, CPU."""
    raw = raw.detach().double().cpu()
    rate = parameterization(name).rate
    step = 1e-3  # a symmetric difference: decides next to the maximum of "inverse" as well
    return torch.where(rate(raw + step) < rate(raw - step), 1.0, -1.0).to(torch.float64)


def _directions_of(
    model: nn.Module,
    directions: int | Directions,
    seed: int,
    search: str,
    ball: str,
) -> Directions:
    """The directions of one model, checked."""
    if search == "slow":
        return [slow_direction(model, ball=ball)]
    shapes = parameter_shapes(model)
    if not isinstance(directions, Sequence):
        if as_int(directions) is None:
            raise TypeError(f"directions must be a count or a list of dicts, got {described(directions)}")
        count = check_int("directions", directions, 1)
        return random_directions(shapes, range(count), seed=seed, ball=ball)
    if not directions:
        raise ValueError("directions must hold at least one direction, got an empty list")
    for direction in directions:
        _check_direction(direction, shapes)
        if search == "gradient":
            _check_length(direction, ball)
    return directions


def _check_direction(direction: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    if not isinstance(direction, Mapping):
        raise TypeError(f"directions must hold dicts of tensors, got {type(direction).__name__}")
    for name, value in direction.items():
        if name not in shapes:
            raise ValueError(f"directions name parameters: {tuple(shapes)}, got {name!r}")
        if not isinstance(value, Tensor) or value.is_complex():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"directions must hold real tensors, got {given} for {name!r}")
        if value.shape != shapes[name]:
            raise ValueError(
                f"directions must have the parameters' shapes: {name!r} is "
                f"{tuple(shapes[name])}, got {tuple(value.shape)}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"directions must be finite, got NaN or infinity in {name!r}")


def _check_length(direction: Mapping[str, Tensor], ball: str) -> None:
    """Raises ValueError where an ascent, which stays in the ball, would start outside of it."""
    for name, value in direction.items():
        length = float(norm(value.double(), ball)) if value.numel() else 0.0
        if length > 1 + _LENGTH_SLACK:
            ball_of = f"the unit ball {ball!r} for search='gradient'"
            raise ValueError(f"directions must lie in {ball_of}, got {name!r} of length {length:g}")
