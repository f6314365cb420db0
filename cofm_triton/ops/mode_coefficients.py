"""All coefficients of an elementwise layer at once: on a GPU one kernel makes them, and one their gradients.

PyTorch takes some 90 small kernels for them, which on a GPU take longer than the scan of a short sequence. Where
something else than plain tensors in Triton is at hand, the functions of `step/coefficients.py` make them: on the CPU,
while graphs are made, which fuse them by themselves, and under transformations; second derivatives are theirs too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, on_device, takes_triton
from cofm_triton.ops.derivatives import differentiating, exporting, is_plain, keeps
from cofm_triton.ops.launch_plan import Planned
from cofm_triton.step.activations import properties
from cofm_triton.step.coefficients import (
    Options,
    has_linear_state,
    input_scale,
    linear_coefficients,
    modes_of,
    stretch_of,
    unit_span,
    unit_steps,
)
from cofm_triton.step.discretization import effective_rate, is_exact
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.parameterizations import PARAMETERIZATIONS


class Kind(NamedTuple):
    """What the kernels have to know of a layer.

    Attributes:
        parameterization: one of `PARAMETERIZATIONS`.
        exact: whether the discretization is "exact".
        linear: whether the state is.
        bounded: whether the nonlinearity is.
        gain: what the second coefficient is: "normalized"; "rising", for states that only rise; "hold", of a
            zero-order hold; "paper", of the LRU cell of the paper's code; "nothing".
        complex_gain: whether it is complex.
        dt: step, time.
        units: of frequencies, see `unit_steps`.
    """

    parameterization: str
    exact: bool
    linear: bool
    bounded: bool
    gain: str
    complex_gain: bool
    dt: float
    units: tuple[float, float]


def kind_of(options: Options, free: Tensor | None) -> Kind:
    """The kind of a layer with these frequencies; None: units are single."""
    return _kind(
        options.parameterization, options.discretization, options.recurrence, options.nonlinearity,
        options.normalize_input, options.dt, unit_span(options), None if free is None else free.shape[0],
        options.pair_places,
    )  # fmt: skip


@cache
def _kind(
    parameterization: str, discretization: str, recurrence: str, nonlinearity: str, normalize: bool | str, dt: float,
    span: float, pairs: int | None, places: tuple[int, int] | None,
) -> Kind:  # fmt: skip
    act = properties(nonlinearity)
    linear = recurrence == "ssm" or act.is_linear
    if normalize == "paper":
        gain = "paper"
    elif normalize:
        gain = "rising" if not linear and act.values[0] >= 0 else "normalized"
    else:
        gain = "hold" if linear else "nothing"
    complex_gain = pairs is not None and gain == "hold"
    return Kind(
        parameterization,
        is_exact(discretization),
        linear,
        act.is_bounded,
        gain,
        complex_gain,
        dt,
        unit_steps(span, pairs or 0, places),
    )


def is_fused(options: Options, backend: str | None, *parameters: Tensor | None) -> bool:
    """Whether kernels make the coefficients: of plain parameters of one dtype, in plain eager code, in Triton.

    Args:
        options: of the layer.
        backend: of the layer.
        parameters: those of `fused_coefficients`.
    """
    given = [tensor for tensor in parameters if tensor is not None]
    if not takes_triton(backend, given[0].device):
        return False
    if torch.compiler.is_compiling() or exporting() or differentiating() or len(given[0]) == 0:
        return False
    alike = all(is_plain(tensor) and tensor.dtype == given[0].dtype and tensor.is_contiguous() for tensor in given)
    return alike and options.parameterization in PARAMETERIZATIONS


def fused_coefficients(
    options: Options, raw: Tensor, free: Tensor | None, log_dt: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The coefficients of a layer, differentiable.

    Args:
        options: of the layer.
        raw: w, (M,).
        free: the parameter `frequency` of pairs, (M,) or (M - 1,); None: units are single.
        log_dt: learnable steps, (M,), or None.

    Returns:
        Linear state: the decay l, (M,), complex for pairs. Nonlinear: the rate a, (M,), for pairs (2, M), with its
        imaginary part.
        What the input of every unit is multiplied by, (M,); for pairs (2 M,), or complex (M,). None: nothing.
    """
    kind = kind_of(options, free)
    keep = keeps(*(tensor for tensor in (raw, free, log_dt) if tensor is not None))
    first, second = _Coefficients.apply(raw, free, log_dt, kind, options, keep)
    return first, second


def composed_coefficients(
    options: Options, raw: Tensor, free: Tensor | None, log_dt: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The same by PyTorch, differentiable to any order."""
    stretch = None if log_dt is None else stretch_of(options, log_dt)
    if has_linear_state(options):
        first, second = linear_coefficients(options, raw, free, stretch)
    else:
        modes = modes_of(options, raw, free, stretch)
        step = modes.dt, modes.discretization
        if modes.frequency is None:
            first = effective_rate(modes.rate, *step)
        else:
            first = torch.stack(effective_pair(modes.rate, modes.frequency, *step))
        scale = input_scale(options, raw, modes, stretch)
        if scale is None:
            return first, None
        second = scale
    return first, second if free is None or second.is_complex() else second.repeat_interleave(2)


def parts_of(first: Tensor, paired: bool, linear: bool) -> tuple[Tensor, Tensor | None]:
    """Real and imaginary part of a gradient by the first coefficient, or of pieces of it, as the kernels take them."""
    if not paired:
        return first, None
    return (first[..., 0], first[..., 1]) if linear else (first[0], first[1])


def forward_coefficients(
    raw: Tensor, free: Tensor | None, log_dt: Tensor | None, kind: Kind, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Both coefficients as the kernel writes them, and the memory in which they lie."""
    kernels, dtype = implementation("triton", "mode_coefficients"), torch.promote_types(raw.dtype, torch.float32)
    layout = kernels.layout(free, kind, keep)
    made = raw.new_empty(layout.room(raw.shape[0], dtype.itemsize), dtype=torch.float64)
    kernels.forward(raw, free, log_dt, made, kind, keep)
    return *layout.parts(made, raw.shape[0], dtype), made


def backward_coefficients(
    raw: Tensor, free: Tensor | None, log_dt: Tensor | None, grad_first: Tensor | None, grad_second: Tensor | None,
    made: Tensor, kind: Kind,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients by the parameters; those by the coefficients like the results of `forward_coefficients`."""
    grads = empty_gradients(raw, free, log_dt)
    second = None if grad_second is None else grad_second.contiguous()
    first = turn = None
    if grad_first is not None:
        first, turn = parts_of(grad_first.contiguous(), free is not None, kind.linear)
        first, turn = first.unsqueeze(0), None if turn is None else turn.unsqueeze(0)  # one piece
    implementation("triton", "mode_coefficients").backward(*grads, first, turn, second, made, kind)
    return grads


def empty_gradients(*parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """Room for the gradient of each."""
    return tuple(None if tensor is None else tensor.new_empty(tensor.shape) for tensor in parameters)


_forward_planned, _backward_planned = Planned(forward_coefficients), Planned(backward_coefficients)


class _Coefficients(torch.autograd.Function):
    """Complex coefficients are pairs of reals to the kernels alone."""

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, free: Tensor | None, log_dt: Tensor | None, kind: Kind, options: Options, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        with on_device(raw.device):
            first, second, made = _forward_planned(raw, free, log_dt, kind, keep)
        ctx.save_for_backward(raw, free, log_dt, made)
        ctx.kind, ctx.layer = kind, options
        ctx.set_materialize_grads(False)
        if free is None:
            return first, second
        if second is not None:
            second = torch.view_as_complex(second.view(-1, 2)) if kind.complex_gain else second
        return torch.view_as_complex(first) if kind.linear else first[:, ::2], second

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        *parameters, made = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return (None,) * 6
        if torch.is_grad_enabled():
            return *_differentiable_backward(ctx.layer, parameters, grads), None, None, None
        reals = [torch.view_as_real(g.resolve_conj()) if g is not None and g.is_complex() else g for g in grads]
        if reals[0] is not None and parameters[1] is not None and not ctx.kind.linear:
            reals[0] = torch.stack((reals[0], torch.zeros_like(reals[0])), -1)  # all by the first channel of a pair
        with on_device(made.device):
            return *_backward_planned(*parameters, *reals, made, ctx.kind), None, None, None


def _differentiable_backward(options: Options, parameters: Any, grads: Any) -> tuple[Tensor | None, ...]:
    """The same by PyTorch."""
    there = [tensor for tensor in parameters if tensor is not None]

    def coefficients(*there: Tensor) -> tuple[Tensor, ...]:
        rest = iter(there)
        given: list[Any] = [None if tensor is None else next(rest) for tensor in parameters]
        found = composed_coefficients(options, *given)
        return tuple(part for part, grad in zip(found, grads, strict=True) if part is not None and grad is not None)

    found = iter(torch.func.vjp(coefficients, *there)[1](tuple(grad for grad in grads if grad is not None)))
    return tuple(None if tensor is None else next(found) for tensor in parameters)
