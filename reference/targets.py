"""Target functionals  H_t(x) = int_0^inf rho(s) x(t - s) ds,  and data made from them.

The memory function of a linear functional is |rho|. The constants are those of the paper's code, which differ from
those in its text.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def _exp(t: Tensor) -> Tensor:
    return torch.exp(-t)


def _pol(t: Tensor) -> Tensor:
    return (1 + 0.1 * t) ** -1.1


def _shift(t: Tensor) -> Tensor:
    return ((t > 9) & (t < 11)).to(t.dtype)


def _twoparts(t: Tensor) -> Tensor:
    return torch.exp(-t) + torch.exp(-((t - 9) ** 2))


def _airy(t: Tensor) -> Tensor:
    return torch.special.airy_ai(t - 6)


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": _exp,
    "pol": _pol,
    "shift": _shift,
    "twoparts": _twoparts,
    "airy": _airy,
    "sin": torch.sin,
}


def rho(name: str, t: Tensor) -> Tensor:
    """Impulse response of a target functional.

        exp       e^-t                      pol    (1 + 0.1 t)^-1.1
        shift     1 for 9 < t < 11, else 0  airy   Ai(t - 6)
        twoparts  e^-t + e^-(t - 9)^2       sin    sin t

    Args:
        name: one of `TARGETS`.
        t: any shape, floating point, time since the impulse, t >= 0.

    Raises:
        ValueError: unknown name.

    Example:
        >>> rho("pol", torch.tensor([0.0, 10.0], dtype=torch.float64)).tolist()
        [1.0, 0.4665164957684037]
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {tuple(TARGETS)}, got {name!r}")
    return TARGETS[name](t)


def kernel(name: str, length: int, dt: float = 1.0) -> Tensor:
    """The sampled impulse response rho(s dt), s = 0..T-1: (T,) float64."""
    return rho(name, torch.arange(length, dtype=torch.float64) * dt)


def causal_convolution(weights: Tensor, inputs: Tensor) -> Tensor:
    """y[k] = sum_{s <= k} weights[s] x[k - s], each input channel by itself.

    Args:
        weights: (T,).
        inputs: (N, T, d).

    Returns:
        (N, T, d).

    Example:
        >>> causal_convolution(torch.tensor([1.0, 0.5]), torch.ones(1, 2, 1)).flatten().tolist()
        [1.0, 1.5]
    """
    steps = torch.arange(len(weights), device=weights.device)
    lag = steps[:, None] - steps
    toeplitz = torch.where(lag >= 0, weights[lag.clamp(min=0)], weights.new_zeros(()))
    return torch.einsum("ks,nsd->nkd", toeplitz, inputs)


def generate(
    name: str,
    num_sequences: int,
    length: int,
    *,
    dt: float = 1.0,
    input_size: int = 1,
    cumulative: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Input and output sequences of a target by the paper's protocol.

        x = dt * randn, summed over time when `cumulative`
        y[k] = sum_{s <= k} rho(s dt) x[k - s]

    Returns:
        inputs and outputs, (N, T, d) float64 each, functions of the seed alone.

    Raises:
        ValueError: unknown name.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (num_sequences, length, input_size)
    inputs = dt * torch.randn(shape, generator=generator, dtype=torch.float64)
    if cumulative:
        inputs = inputs.cumsum(1)
    return inputs, causal_convolution(kernel(name, length, dt), inputs)
