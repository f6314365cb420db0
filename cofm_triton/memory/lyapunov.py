"""How fast a recurrence forgets its state: the largest Lyapunov exponent, along given inputs.

Two states that start close to each other, under the same inputs x, differ after n steps by

    |delta[n]| ~ |delta[0]| exp(lambda n),      lambda = lim log |J[n] ... J[1] v| / n,   J[k] = dh[k] / dh[k-1]

One vector v is carried along (a product of Jacobians by a vector needs no Jacobian) and brought back to length 1 every
few steps, or it would leave the range of float64. Almost every v turns into the direction that grows most. lambda < 0:
the states forget where they started, and the sequence may be cut (`warm_up_steps`); lambda > 0: they are chaotic.

Source: Benettin et al., Meccanica 15 (1980) 9-20; for parallel evaluation arXiv 2508.16817.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.modules.calls import check_module
from cofm_triton.modules.module_state import EvaluationMode, OtherTensors
from cofm_triton.support.progress import Progress, counting
from cofm_triton.support.scalars import check_dtype, check_int, check_real
from cofm_triton.support.tensors import check_real_tensor

State = Tensor | tuple[Tensor, ...]
Step = Callable[[Tensor, Any], Any]

_STRIDE = 16  # steps between two returns to length 1
_MEETING = 8.0  # e-folds, see `warm_up_steps`
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LyapunovExponent:
    """The largest exponent along each sequence, float64 on the CPU.

    Attributes:
        values: (N,), 1 / step; -inf where a difference went away for good, NaN where states overflowed.
        steps: that were averaged over.
    """

    values: Tensor
    steps: int

    @property
    def largest(self) -> float:
        """The exponent of the sequence that forgets most slowly."""
        return self.values.max().item()

    @property
    def mean(self) -> float:
        """Over sequences."""
        return self.values.mean().item()

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN of one sequence."""
        return (self.values.std() / math.sqrt(len(self.values))).item()

    def warm_up_steps(self, dtype: torch.dtype = torch.float32) -> int | None:
        """Of the sequence that forgets most slowly, see `warm_up_steps`."""
        return warm_up_steps(self.largest, dtype)

    def __str__(self) -> str:
        spread = f", {self.mean:.4g} +- {self.error:.2g} on average" if len(self.values) > 1 else ""
        return f"largest Lyapunov exponent {self.largest:.4g} a step over {self.steps} steps{spread}"


def warm_up_steps(exponent: float, dtype: torch.dtype = torch.float32) -> int | None:
    """After how many steps two states of a recurrence are equal, to the last bit, as a rule.

    A difference as large as the state fades into rounding in -log(eps) / |exponent| steps. What is left, a unit in the
    last place, rounding takes away with a chance of |exponent| in every step: 8 / |exponent| more steps leave one
    number in 3,000. It is the rule of the chains that this library runs side by side (docs/backends.md).

    Args:
        exponent: of a difference between states, 1 / step: `LyapunovExponent.largest`, or the logarithm of a
            `contraction_bound`.
        dtype: of the states; those of 16-bit inputs are float32.

    Returns:
        The steps, or None where differences do not shrink.

    Raises:
        TypeError: `exponent` is no number, `dtype` no real floating-point dtype.
        ValueError: `exponent` is NaN.

    Example:
        >>> warm_up_steps(-0.1), warm_up_steps(-0.1, torch.float64), warm_up_steps(0.0)
        (240, 441, None)
    """
    exponent = check_real("exponent", exponent)
    check_dtype("dtype", dtype, _DTYPES)
    if math.isnan(exponent):
        raise ValueError("exponent must be a number, got nan")
    if exponent >= 0:
        return None
    eps = torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps
    return max(1, math.ceil((_MEETING - math.log(eps)) / -exponent))


@torch.no_grad()
def lyapunov_exponent(
    model: nn.Module | Step,
    inputs: Tensor,
    hx: State | None = None,
    *,
    transient: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LyapunovExponent:
    """The largest Lyapunov exponent of a recurrence along given inputs, in float64.

    Args:
        model: a module that maps (N, T, d) and a state to an output and the next state, as `StableRNN`,
            `RNNFunctional`, `ResidualStack`, `nn.RNN`, `nn.GRU` and `nn.LSTM` with `batch_first=True` do; or a function
            `step(x, h)` that gives the next state of inputs (N, d). A state is a tensor or a tuple of tensors, (N, ...)
            or, with three dimensions, (layers, N, D). A module is neither copied nor changed.
        inputs: (N, T, d).
        hx: the first state; None: what the module starts from. A function needs it.
        transient: steps at the start that only turn the difference into the direction that grows most; None: a fifth.
        seed: of the first differences.
        progress: called as `progress(steps done, steps)`.

    Returns:
        A `LyapunovExponent`.

    Raises:
        TypeError: an argument of the wrong type, or a module that returns no state.
        ValueError: a shape that does not fit, a number out of range, or a bidirectional module.

    Example:
        >>> import cofm_triton as cofm
        >>> layer = cofm.StableRNN(1, 1, recurrence="diagonal", nonlinearity="linear", batch_first=True)
        >>> exponent = lyapunov_exponent(layer, torch.randn(2, 100, 1))
        >>> abs(exponent.largest + layer.stability_margin()) < 1e-6
        True
    """
    x = _checked(inputs)
    steps = x.shape[1]
    transient = steps // 5 if transient is None else check_int("transient", transient, 0)
    if transient >= steps - 1:
        raise ValueError(f"transient must leave steps to average over, fewer than {steps - 1}, got {transient}")
    generator = torch.Generator().manual_seed(check_int("seed", seed, below=2**64))
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise TypeError(f"model must be a torch.nn.Module or a function step(x, h), got {type(model).__name__}")
        if hx is None:
            raise ValueError("hx must be given for a function: it has no state of its own to start from")
        return _exponent(_stepwise(model), x, _in_double(hx), transient, generator, progress)
    check_module("model", model)
    if any(getattr(module, "bidirectional", False) for module in model.modules()):
        raise ValueError("model must be causal to forget its past, got bidirectional=True")
    start = None if hx is None else _in_double(hx)
    # cuDNN's recurrent layers have no forward mode.
    with (
        EvaluationMode(model),
        OtherTensors(model, dtype=torch.float64),
        torch.backends.cudnn.flags(enabled=False),
    ):
        return _exponent(_sequencewise(model), x, start, transient, generator, progress)


def _exponent(
    run: Step, x: Tensor, state: State | None, transient: int, generator: torch.Generator, progress: Progress | None
) -> LyapunovExponent:
    """Sums of logarithms, over the steps after the transient; the first step makes a state where there is none."""
    count, steps = x.shape[:2]
    finished = counting(progress, steps)
    if state is None:
        state = run(x[:, :1], None)
        x, transient = x[:, 1:], max(0, transient - 1)
        finished(1)
    _check_rows(state, count)
    tangent, _ = _normalised(_like(state, generator))
    total = torch.zeros(count, dtype=torch.float64, device=x.device)
    for part, counts in ((x[:, :transient], False), (x[:, transient:], True)):
        for chunk in part.split(_STRIDE, 1) if part.shape[1] else ():
            state, tangent, grown = _advance(run, chunk, state, tangent)
            total += grown if counts else 0.0
            finished(chunk.shape[1])
    return LyapunovExponent((total / (x.shape[1] - transient)).cpu(), x.shape[1] - transient)


def _advance(run: Step, x: Tensor, state: State, tangent: State) -> tuple[State, State, Tensor]:
    """State, tangent of length 1 and the logarithm of what it grew by (N,); by halves where it leaves float64."""
    result: Any = jvp(lambda h: run(x, h), (state,), (tangent,))
    after, moved = result
    tangent_after, grown = _normalised(moved)
    lost = ~grown.isfinite() & (_size(tangent) > 0)
    if x.shape[1] == 1 or not bool(lost.any()):
        return after, tangent_after, grown
    half = x.shape[1] // 2
    state, tangent, first = _advance(run, x[:, :half], state, tangent)
    state, tangent, second = _advance(run, x[:, half:], state, tangent)
    return state, tangent, first + second


def _normalised(tangent: State) -> tuple[State, Tensor]:
    """The same direction with length 1, and the logarithm of the length (N,); 0 stays 0."""
    size = _size(tangent)
    scale = torch.where(size > 0, 1 / size, 0)
    return _map(lambda v: v * scale.view(-1, *[1] * (1 if v.dim() == 3 else v.dim() - 1)), tangent), size.log()


def _size(tangent: State) -> Tensor:
    """(N,): the length of each sequence's difference, over all tensors of a state."""
    squares = [v.square().sum(0) if v.dim() == 3 else v.square() for v in _tensors(tangent)]
    return torch.stack([square.flatten(1).sum(1) for square in squares]).sum(0).sqrt()


def _sequencewise(model: nn.Module) -> Step:
    """The last state after a sequence, of a module."""
    options = {"return_state": True} if isinstance(model, RNNFunctional) else {}

    def run(x: Tensor, state: State | None) -> State:
        result = model(x, state, **options) if state is not None else model(x, **options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"model must return its output and its state, got {type(result).__name__} from {type(model).__name__}"
            )
        after: State = result[1]
        return after

    return run


def _stepwise(step: Step) -> Step:
    """The same of a function of one step."""

    def run(x: Tensor, state: State) -> State:
        for row in x.unbind(1):
            state = step(row, state)
        return state

    return run


def _checked(inputs: Tensor) -> Tensor:
    check_real_tensor("inputs", inputs)
    if inputs.dim() != 3 or len(inputs) == 0 or inputs.shape[1] < 3:
        raise ValueError(f"inputs must have shape (N, T, d) with N >= 1 and T >= 3, got {tuple(inputs.shape)}")
    return inputs.detach().double()


def _check_rows(state: Any, count: int) -> None:
    for value in _tensors(state):
        if not isinstance(value, Tensor):
            raise TypeError(f"a state must be a tensor or a tuple of tensors, got {type(value).__name__}")
        if value.dim() < 2 or value.shape[1 if value.dim() == 3 else 0] != count:
            raise ValueError(
                f"a state must be (N, ...) or (layers, N, D) with N = {count}, that of inputs, got {tuple(value.shape)}"
            )


def _in_double(state: State) -> State:
    return _map(lambda value: value.detach().double() if isinstance(value, Tensor) else value, state)


def _like(state: State, generator: torch.Generator) -> State:
    """A random difference for every number of a state."""
    return _map(lambda h: torch.randn(h.shape, generator=generator, dtype=h.dtype, device="cpu").to(h.device), state)


def _tensors(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _map(function: Callable[[Tensor], Tensor], state: State) -> State:
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)
