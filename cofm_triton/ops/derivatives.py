"""Who watches a call: whether it can be asked for a derivative, and whether anybody needs to see the operator at all.

If not, the wrapper that offers derivatives is left out, and so is PyTorch's dispatcher: they take as long as the scan
of ten thousand numbers on a CPU, or as two launches on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What `autograd.Function` itself asks; a PyTorch that answers no longer is taken to transform always.
_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)

# How many modes (fake tensors, tracing, counting) look at every operator; a PyTorch that does not say has one always.
_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_tracing: Any = getattr(torch._C, "_is_tracing", lambda: True)  # of `torch.jit.trace`
_profiling: Any = getattr(torch.autograd, "_profiler_enabled", lambda: True)


# What PyTorch's dispatcher sees of a tensor: its device, and who is wrapped around it (`vmap` old and new, fake
# tensors, conjugation on demand). A PyTorch that does not say shows something else in every tensor.
_keys: Any = getattr(torch._C, "_dispatch_keys", None)
_PLAIN_TYPES, _PLAIN_DEVICES = (Tensor, torch.nn.Parameter), ("cpu", "cuda")
_plain_keys: set[int] = set()  # of those devices, as they are met


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but numbers on a CPU or a GPU of CUDA.

    Example:
        >>> is_plain(torch.ones(2)), is_plain(torch.ones(2, device="meta"))
        (True, False)
    """
    if type(tensor) not in _PLAIN_TYPES or _keys is None:
        return False
    keys = _keys(tensor).raw_repr()
    if keys not in _plain_keys and tensor.device.type in _PLAIN_DEVICES:
        _plain_keys.add(_keys(torch.empty(0, device=tensor.device)).raw_repr())
    return keys in _plain_keys


def differentiating() -> bool:
    """Whether `torch.func` or forward mode is at work. A level of forward mode is asked for, not a tangent: tensors of
    `vmap` do not answer that question.

    Example:
        >>> differentiating()
        False
    """
    return bool(_transforming() or getattr(forward_ad, "_current_level", 0) >= 0)


def wanted(*tensors: Tensor | None) -> bool:
    """True inside `torch.func` and forward mode, and where a tensor requires a gradient.

    Example:
        >>> wanted(torch.ones(2), None), wanted(torch.ones(2, requires_grad=True))
        (False, True)
    """
    if differentiating():
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def exporting() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is making a graph, to run later and perhaps elsewhere.

    Example:
        >>> exporting()
        False
    """
    return torch.compiler.is_exporting() or (not torch.compiler.is_compiling() and _tracing())


def directly(*tensors: Tensor | None) -> bool:
    """Whether the registered operator is called itself: it is what a graph can hold, and it has a derivative.

    Example:
        >>> directly(torch.ones(2)), directly(torch.ones(2, requires_grad=True))
        (True, False)
    """
    return torch.compiler.is_compiling() or exporting() or not wanted(*tensors)


def keeps(*tensors: Tensor | None) -> bool:
    """Whether a forward pass keeps what makes a backward pass cheap.

    An exported or traced graph does not: it is the same with gradients and without, and mostly answers.

    Example:
        >>> keeps(torch.ones(2)), keeps(torch.ones(2, requires_grad=True))
        (False, True)
    """
    if exporting():
        return False
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def watched() -> bool:
    """Whether PyTorch traces, inside `torch.func`, forward mode, modes and profilers.

    Example:
        >>> watched()
        False
    """
    return bool(_tracing() or _modes() > 0 or _profiling() or differentiating())


def observed(arguments: Sequence[Any]) -> bool:
    """True while PyTorch compiles, where calls are watched or autograd records, and for tensors that are not plain.

    Example:
        >>> observed((torch.ones(2), None, 0.5)), observed((torch.nn.Parameter(torch.ones(2)),))
        (False, True)
    """
    if torch.compiler.is_compiling() or watched():
        return True
    recording = torch.is_grad_enabled()
    for argument in arguments:
        if isinstance(argument, Tensor) and ((recording and argument.requires_grad) or not is_plain(argument)):
            return True
    return False


def remember(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep what derivatives need: for forward mode, which takes time of its own, where it is at work."""
    ctx.save_for_backward(*tensors)
    if differentiating():
        ctx.save_for_forward(*tensors)


def transforming() -> bool:
    """Whether `torch.func` transforms what is called, `vmap` among it.

    Example:
        >>> transforming()
        False
    """
    return bool(_transforming())


def signed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of an `autograd.Function` with its signature at hand, which PyTorch asks for at every call."""
    vars(forward)["__signature__"] = inspect.signature(forward)
    return forward
