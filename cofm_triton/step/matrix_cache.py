"""Results kept inside `torch.nn.utils.parametrize.cached()`, where PyTorch keeps the matrices it parametrises.

The rule is PyTorch's: inside the context parameters are not changed behind autograd's back (`.data`). What PyTorch can
see is looked at: another tensor, one that was changed in place, or another mode of gradients makes the result anew. A
PyTorch whose context keeps nothing has nothing kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Result = TypeVar("Result")


class _Kept(NamedTuple):
    sources: tuple[Tensor, ...]
    versions: tuple[Any, ...]
    result: Any


def kept(
    module: nn.Module, name: Hashable, sources: Callable[[], tuple[Tensor, ...]], make: Callable[[], Result]
) -> Result:
    """`make()`, or what it gave before in the same context.

    Args:
        module: whose result it is.
        name: of the result, with everything it depends on besides tensors.
        sources: gives the tensors it is made from; outside the context nobody asks, for they may be costly themselves.
        make: makes it.

    Example:
        >>> layer, w = nn.Identity(), torch.ones(2)
        >>> with parametrize.cached():
        ...     first, second = (kept(layer, "twice", lambda: (w,), lambda: 2 * w) for _ in range(2))
        >>> first is second
        True
    """
    if torch.compiler.is_compiling() or not getattr(parametrize, "_cache_enabled", 0):
        return make()
    cache: dict[Any, Any] = getattr(parametrize, "_cache", {})
    tensors = sources()
    versions = (torch.is_grad_enabled(), *(None if t.is_inference() else t._version for t in tensors))
    held = cache.get((id(module), name))
    if held is None or held.versions != versions or any(a is not b for a, b in zip(held.sources, tensors, strict=True)):
        held = cache[id(module), name] = _Kept(tensors, versions, make())
    result: Result = held.result
    return result
