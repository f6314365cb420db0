"""Numbers that test and time a recurrence: the same for every dtype, up to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.case import Case
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import NONLINEARITIES, properties


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers; the same for every dtype, up to rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def decays(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Decays of either sign, or any phase, with moduli from 0.7 to 1: states remember about as long as they can."""
    values = normal(*shape, dtype=torch.complex128 if dtype.is_complex else torch.float64, seed=seed)
    return (values.sgn() * (0.7 + 0.3 * values.abs() / (1 + values.abs()))).to(dtype)


def starts(length: int, seed: int) -> list[int]:
    """Start indices of sequences packed into `length` steps: some one step long, one of them empty.

    Example:
        >>> starts(7, 0)[0], max(starts(7, 0)) < 7
        (0, True)
    """
    count = min(length, 2 + seed % 3)
    drawn = torch.randint(0, length, (count,), generator=torch.Generator().manual_seed(seed)).tolist() if length else []
    return sorted([0, *drawn, *drawn[:1]])


def resets(batch: int, length: int, seed: int) -> Tensor:
    """(B, T): True at one step in five, and at the first one of the first row.

    Example:
        >>> resets(2, 3, 0)[:, 0].tolist(), resets(1, 0, 0).shape
        ([True, False], torch.Size([1, 0]))
    """
    drawn = torch.rand((batch, length), generator=torch.Generator().manual_seed(seed)) < 0.2
    drawn[:, :1] = (torch.arange(batch) == 0).unsqueeze(1)
    return drawn


def reset_options(batch: int, length: int, reset_to: str | None, seed: int) -> dict[str, Any]:
    """`resets` and `reset_to` of a call, drawn; none without `reset_to`."""
    if reset_to is None:
        return dict(resets=None, reset_to="h0")
    return dict(resets=resets(batch, length, seed), reset_to=reset_to)


def away_from_kinks(*shape: int, seed: int) -> Tensor:
    """Pre-activations z with `0.1 <= |z| <= 0.8` or `1.25 <= |z| <= 3`, float64.

    Where the gradients of hardtanh and relu jump, a bound could not tell right from wrong.
    """
    draw = normal(*shape, dtype=torch.float64, seed=seed)
    size = draw.abs()
    return draw.sgn() * torch.where(size < 0.9, 0.1 + 0.75 * size, (1.25 + size - 0.9).clamp(max=3))


def inputs_to(
    z: Tensor, h0: Tensor, pull: Callable[[Tensor, int], Tensor], starts: Sequence[int] | None = None, *,
    dt: float, nonlinearity: str, dtype: torch.dtype, resets: Tensor | None = None, reset_to: str = "h0",
) -> Tensor:  # fmt: skip
    """x of `h[t] = h[t-1] + dt * act(x[t] - pull(h[t-1], t))` whose pre-activations are z, up to the rounding of x.

    Args:
        z: (B, T, D) float64.
        h0: (B, D), or (S, D) with `starts`.
        pull: of states (B, D), float64, and a step.
        starts: where sequences start that are packed into one.
        dt: step.
        nonlinearity: act.
        dtype: of x.
        resets: (B, T), or None.
        reset_to: "h0" or "zero".
    """
    x, act = torch.empty(z.shape, dtype=dtype), activation(nonlinearity)
    start = now = h0.double()
    for t in range(z.shape[1]):
        if starts is not None and t in starts:
            entered = max(i for i, start in enumerate(starts) if start == t)
            start = now = h0[entered : entered + 1].double()
        if resets is not None:
            now = torch.where(resets[:, t, None], start if reset_to == "h0" else 0 * start, now)
        pulled = pull(now, t)
        x[:, t] = z[:, t] + pulled
        now = now + dt * act(x[:, t].double() - pulled)
    return x


def randn(case: Case, device: torch.device, seed: int) -> Tensor:
    """(B, T, D) standard normal numbers in the case's dtype, drawn on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(case.shape, dtype=case.dtype, device=device, generator=generator)


def spread_rates(case: Case, device: torch.device) -> Tensor:
    """(D,) rates in the state's real dtype: memories from one step to the whole sequence, evenly in their logarithm."""
    _, length, channels = case.shape
    real = state_dtype(case.dtype).to_real()
    return torch.logspace(-math.log10(max(length, 2)), math.log10(0.5), channels, dtype=real, device=device)


def spread_decays(case: Case, device: torch.device) -> Tensor:
    """(D,) decays `exp(-rate)` in the state's dtype; complex ones turn by one radian per step as well."""
    decay = torch.exp(-spread_rates(case, device))
    return torch.polar(decay, torch.ones_like(decay)) if case.dtype.is_complex else decay


def in_pairs(case: Case) -> tuple[Case, Case]:
    """The case with one channel more if their number is odd, and one of as many channels as it has pairs."""
    batch, length, channels = case.shape
    even, pairs = channels + channels % 2, (channels + 1) // 2
    return replace(case, shape=(batch, length, even)), replace(case, shape=(batch, length, pairs))


NONLINEAR = tuple(name for name in NONLINEARITIES if not properties(name).is_linear)


def inside_and_out(draw: Callable[..., Any], **outside: Any) -> dict[str, Callable[..., Any]]:
    """Variants of a recurrence with a read-out: every act inside, and every one on the states of a linear recurrence.

    Args:
        draw: `draw(..., act_in=..., act_out=...)`.
        outside: further options of the latter, which their names tell.
    """
    inside = {name: partial(draw, act_in=name) for name in NONLINEARITIES}
    return inside | {
        "+".join([f"{name}-of-linear", *outside]): partial(draw, act_out=name, **outside) for name in NONLINEAR
    }
