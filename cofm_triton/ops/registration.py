"""Operators registered with PyTorch under `torch.ops.cofm_triton`, for eager code, `torch.compile` and `opcheck`.

The pieces of `torch.library` are used one by one: its `custom_op` decorator wraps every call for the compiler, whose
import costs seconds that a plain eager call never needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from cofm_triton.ops.backends import FASTEST, fastest, is_current, on_device
from cofm_triton.ops.derivatives import observed, signed, transforming
from cofm_triton.ops.launch_plan import Planned
from cofm_triton.ops.small_calls import Small

NAMESPACE = "cofm_triton"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def register(
    implementation: Callable[..., Any], *, fake: Callable[..., Any], vmap: Callable[..., Any]
) -> Callable[..., Any]:
    """Register a function as an operator of the same name, and return what calls it: past the dispatcher if nobody
    looks (`derivatives.observed`).

    Args:
        implementation: computes on real tensors of any device, the first argument among them, by the `backend` it is
            given; its annotations give the schema. It mutates nothing, and none of its results shares memory with an
            argument or another result.
        fake: results of the right shape and dtype for tensors without data.
        vmap: `(info, in_dims, *args) -> (results, out_dims)` for `torch.func.vmap`.
    """
    name = implementation.__name__
    schema = torch.library.infer_schema(implementation, mutates_args=())
    _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    compute = _on_a_backend(implementation)
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    torch.library.register_vmap(qualified, _also_of_nothing(vmap, fake), lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default

    @wraps(implementation)
    def call(*arguments: Any) -> Any:
        return (operator if observed(arguments) else compute)(*arguments)

    return call


def _on_a_backend(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """The same, on its tensors' device, and by the fastest backend there where a graph leaves the choice open."""
    place = list(signature(implementation).parameters).index("backend")
    in_triton = Planned(implementation)

    @wraps(implementation)
    def compute(*arguments: Any) -> Any:
        if arguments[place] == FASTEST:
            arguments = (*arguments[:place], fastest(arguments[0].device), *arguments[place + 1 :])
        if arguments[place] != "triton":
            return implementation(*arguments)
        device = arguments[0].device
        if is_current(device):
            return in_triton(*arguments)
        with on_device(device):
            return in_triton(*arguments)

    return compute


def _also_of_nothing(vmap: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` for a mapped axis of any size: one without entries cannot be folded into another axis and found again, so
    that its results, which hold no numbers, take their shapes from `fake`.
    """

    @wraps(vmap)
    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        if info.batch_size > 0:
            return vmap(info, in_dims, *arguments)
        results = fake(*(_entry(argument, dim) for argument, dim in zip(arguments, in_dims, strict=True)))
        return tuple(result.new_empty((0, *result.shape)) for result in results), (0,) * len(results)

    return rule


def _entry(argument: Any, dim: int | None) -> Any:
    """What one entry of a mapped argument looks like, without its numbers."""
    if dim is None or not isinstance(argument, Tensor):
        return argument
    return argument.new_empty(()).expand(argument.shape[:dim] + argument.shape[dim + 1 :])


class Derivative:
    """An operator with its derivatives, for eager code that asks for any.

    `torch.func` wants an `autograd.Function` whose context is set up apart, which costs every call of plain eager code
    as much as a launch. So there are two, with the same rules.

    Attributes:
        plain: for plain eager code, forward mode included.
        transformed: for `torch.func`.
        small: for what `of_small` gives. PyTorch looks at every argument of a function: it has a few only.
    """

    def __init__(
        self, operator: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any],
        jvp: Callable[..., Any] | None,
    ) -> None:  # fmt: skip
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = operator(*inputs)
            setup_context(ctx, inputs, output)
            return output

        def forward_small(ctx: Any, *given: Any) -> Any:
            *tensors, small = given
            output = small.compute(*tensors)
            setup_context(ctx, (*tensors, *small.options), output)
            ctx.small = small
            return output

        def backward_small(ctx: Any, *grads: Any) -> Any:
            found = ctx.small.gradients(grads, ctx.saved_tensors)
            return *(backward(ctx, *grads)[: len(ctx.needs_input_grad) - 1] if found is None else found), None

        @signed
        def forward_alone(*inputs: Any) -> Any:
            return operator(*inputs)

        rules = {"backward": staticmethod(backward)} | ({} if jvp is None else {"jvp": staticmethod(jvp)})
        name, base = operator.__name__, (torch.autograd.Function,)
        self.plain: Any = type(name, base, {**rules, "forward": staticmethod(forward)})
        apart = dict(forward=staticmethod(forward_alone), setup_context=staticmethod(setup_context))
        self.transformed: Any = type(name, base, {**rules, **apart, "generate_vmap_rule": True})
        small = dict(forward=staticmethod(forward_small), backward=staticmethod(backward_small))
        self.small: Any = type(name, base, small)

    def apply(self, *inputs: Any) -> Any:
        """The operator's results."""
        return (self.transformed if transforming() else self.plain).apply(*inputs)

    def of_small(self, small: Small) -> Callable[..., Any]:
        """The results of a small call of tensors, with these derivatives."""
        apply, compute = self.small.apply, small.compute

        def call(*tensors: Tensor | None) -> Any:
            if torch.is_grad_enabled():
                for tensor in tensors:
                    if tensor is not None and tensor.requires_grad:
                        return apply(*tensors, small)
            return compute(*tensors)

        return call


def register_derivative(
    operator: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    jvp: Callable[..., Any] | None,
) -> Derivative:
    """Give an operator its derivatives; returns what eager code that asks for any applies.

    Args:
        operator: what `register` returned.
        setup_context: keeps what derivatives need.
        backward: reverse mode, which eager code and `torch.compile` share.
        jvp: forward mode, which PyTorch, like `torch.func`, offers for an `autograd.Function` only. None: whoever takes
            forward mode, or transforms, calls something else.
    """
    qualified = f"{NAMESPACE}::{operator.__name__}"
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_LIBRARY)
    return Derivative(operator, setup_context, backward, jvp)
