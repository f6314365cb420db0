"""Calls of the scans on every backend, and the exact results they are held against.

A case holds tensors; `run` calls the public function on one backend, with gradients of a weighted sum of both results,
and `deviations` gives the largest error of every result over the bound derived for it in `cofm_triton.tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.activation import activation
from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.tolerance import Bound, dense_rnn_bounds, linear_scan_bounds, rnn_scan_bounds

_GPU = torch.cuda.is_available()
_NUMBA = pytest.param("numba", marks=pytest.mark.skipif(not INSTALLED["numba"], reason="numba is not installed"))
_TRITON = pytest.param(
    "triton",
    marks=pytest.mark.skipif(not (INSTALLED["triton"] and (_GPU or interpreting())), reason="triton cannot run here"),
)
CPU_BACKENDS = (_NUMBA, "torch")
TRITON = (_TRITON,)
BACKENDS = (*CPU_BACKENDS, *TRITON)
COMPLEX_BACKENDS = BACKENDS
# Backends that take every step in the order of the recurrence, so that a result does not depend on how T is cut.
SEQUENTIAL_BACKENDS = (_NUMBA, _TRITON)

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex128, torch.complex64)

if INSTALLED["triton"] and interpreting():
    from triton.runtime.interpreter import InterpretedFunction

    _call = InterpretedFunction.__call__

    def _call_ours(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.fn.__module__.startswith("cofm_triton."):
            return self.rewrite()(*arguments, **options)
        return _call(self, *arguments, **options)

    # Whenever a kernel calls a function, the interpreter searches all of Triton's language for what it replaces; the
    # launch of a kernel of ours has replaced it already. Without the search, tests take a fifth of the time.
    InterpretedFunction.__call__ = _call_ours


def for_backends(backends: Iterable[Any], values: Iterable[Any]) -> tuple[Any, ...]:
    """Parameters ("backend", "value"): every value on every backend, marked like the backend."""
    pairs = [(backend, value) for backend in backends for value in values]
    return tuple(
        (backend, value) if isinstance(backend, str) else pytest.param(*backend.values, value, marks=backend.marks)
        for backend, value in pairs
    )


def device_of(backend: str) -> torch.device:
    """Where the tensors of a backend live."""
    return torch.device("cuda" if backend == "triton" and _GPU else "cpu")


def rounding_slack(backend: str, dtype: torch.dtype) -> float:
    """Triton's interpreter cuts off the bits that bfloat16 lacks where GPUs round to nearest: twice the bound."""
    return 2.0 if backend == "triton" and dtype == torch.bfloat16 and not _GPU else 1.0


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers; the same for every dtype, up to rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def decays(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Decays of either sign, or any phase, with moduli from 0.7 to 1: states remember about as long as they can."""
    values = normal(*shape, dtype=torch.complex128 if dtype.is_complex else torch.float64, seed=seed)
    return (values.sgn() * (0.7 + 0.3 * values.abs() / (1 + values.abs()))).to(dtype)


@dataclass(frozen=True)
class Case:
    """Arguments of one call and the weights of the loss `sum(grad_h * h) + sum(grad_last * h_last)`."""

    x: Tensor
    factor: Tensor  # decay or rate
    h0: Tensor | None
    grad_h: Tensor | None
    grad_last: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)

    call: Callable[..., tuple[Tensor, Tensor]] = linear_scan
    bounds_of: Callable[..., dict[str, Bound]] = linear_scan_bounds
    names: tuple[str, ...] = ("grad_x", "grad_decay", "grad_h0")

    def run(self, backend: str) -> dict[str, Tensor]:
        """Results and gradients, on the CPU."""
        device = device_of(backend)
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        leaves = {
            name: tensor.to(device).detach().requires_grad_()
            for name, tensor in zip(self.names, (self.x, self.factor, self.h0), strict=True)
            if tensor is not None
        }
        h, h_last = self.call(*leaves.values(), **options, backend=backend)
        results = {"h": h, "h_last": h_last}
        pairs = [
            (result, weight.to(device))
            for result, weight in zip((h, h_last), (self.grad_h, self.grad_last), strict=True)
            if weight is not None
        ]
        outputs, weights = zip(*pairs, strict=True)
        results |= dict(zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), weights), strict=True))
        return {name: result.detach().cpu() for name, result in results.items()}

    def deviations(self, backend: str) -> dict[str, float]:
        """Largest error over its bound, by result; above 1 is a miss."""
        bounds = self.bounds_of(self.x, self.factor, self.h0, self.grad_h, self.grad_last, **self.options)
        slack = rounding_slack(backend, self.x.dtype)
        results = self.run(backend)
        assert results["h"].dtype == self.x.dtype
        assert results["h_last"].dtype == (self.x if self.h0 is None else self.h0).dtype
        return {name: bounds[name].excess(result) / slack for name, result in results.items()}

    def check(self, backend: str) -> None:
        """Every result is within its bound."""
        missed = {name: ratio for name, ratio in self.deviations(backend).items() if not ratio <= 1}
        assert not missed, f"error over bound: {missed}"

    def with_(self, **changes: Any) -> Case:
        """The case with other tensors."""
        return replace(self, **changes)


def linear_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, gated: bool = False,
    states: bool = True, reverse: bool = False, starts: list[int] | None = None,
) -> Case:  # fmt: skip
    """A linear scan of random numbers; decay (D,) in the state's dtype, gates in x's."""
    state = state_dtype(dtype)
    sequences = batch if starts is None else len(starts)
    return Case(
        x=normal(batch, length, channels, dtype=dtype),
        factor=decays(batch, length, channels, dtype=dtype) if gated else decays(channels, dtype=state),
        h0=normal(sequences, channels, dtype=state, seed=2) if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=4),
        options=dict(reverse=reverse, seq_starts=None if starts is None else torch.tensor(starts)),
    )


def away_from_kinks(*shape: int) -> Tensor:
    """Pre-activations z with `0.1 <= |z| <= 0.8` or `1.25 <= |z| <= 3`, float64."""
    draw = normal(*shape, dtype=torch.float64, seed=6)
    size = draw.abs()
    return draw.sgn() * torch.where(size < 0.9, 0.1 + 0.75 * size, (1.25 + size - 0.9).clamp(max=3))


def dense_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, precision: str = "ieee",
) -> Case:  # fmt: skip
    """A dense recurrence whose pre-activations keep away from kinks, with a matrix that neither forgets nor grows."""
    state = state_dtype(dtype)
    coupling = normal(channels, channels, dtype=torch.float64, seed=5) / (4 * channels)
    weight = (0.5 * torch.eye(channels, dtype=torch.float64) + coupling).to(state)
    h0 = normal(batch, channels, dtype=state, seed=2) if states else torch.zeros(batch, channels, dtype=state)
    z, x = away_from_kinks(batch, length, channels), torch.empty(batch, length, channels, dtype=dtype)
    state_now = h0.double()
    for t in range(length):
        turned = state_now @ weight.double().T
        x[:, t] = z[:, t] + turned
        state_now = state_now + dt * activation(nonlinearity)(x[:, t].double() - turned)
    options = dict(dt=dt, nonlinearity=nonlinearity)
    return Case(
        x=x,
        factor=weight,
        h0=h0 if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=3),
        grad_last=normal(batch, channels, dtype=state if states else dtype, seed=4),
        options=options,
        call=partial(dense_rnn, precision=precision),
        bounds_of=dense_rnn_bounds,
        names=("grad_x", "grad_weight", "grad_h0"),
    )


def rnn_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, starts: list[int] | None = None,
) -> Case:  # fmt: skip
    """A nonlinear scan whose pre-activations keep away from the kinks of hardtanh and relu.

    They are drawn first, and x is what leads to them. Where gradients jump, the bound could not tell right from wrong.
    """
    state = state_dtype(dtype)
    sequences = batch if starts is None else len(starts)
    rate = (0.05 + 0.9 * normal(channels, dtype=torch.float64, seed=5).abs() / 2).clamp(max=1.2).to(state)
    h0 = normal(sequences, channels, dtype=state, seed=2) if states else torch.zeros(sequences, channels, dtype=state)
    z, x = away_from_kinks(batch, length, channels), torch.empty(batch, length, channels, dtype=dtype)
    act = activation(nonlinearity)
    state_now = h0.double()
    for t in range(length):
        if starts is not None and t in starts:
            entered = max(i for i, start in enumerate(starts) if start == t)
            state_now = h0[entered : entered + 1].double()
        x[:, t] = z[:, t] + rate.double() * state_now
        state_now = state_now + dt * act(x[:, t].double() - rate.double() * state_now)
    return Case(
        x=x,
        factor=rate,
        h0=h0 if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=4),
        options=dict(
            dt=dt, nonlinearity=nonlinearity, seq_starts=None if starts is None else torch.tensor(starts)
        ),
        call=rnn_scan,
        bounds_of=rnn_scan_bounds,
        names=("grad_x", "grad_rate", "grad_h0"),
    )
