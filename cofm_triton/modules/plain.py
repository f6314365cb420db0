"""Whether a module is plain: does exactly what its class says. Only then may a shortcut replace a call of it.

What users add to a module, and a shortcut would miss:

    another class           a subclass, `torch.compile`, other wrappers, a module put in another's place
    other functions         `module.forward = f` and every other method; `Class.forward = f` for all modules
    hooks                   of the module or of all modules, forward and backward
    other tensors           parametrised, shared or of another shape; buffers and attributes in place of parameters;
                            tensor subclasses, which compute by rules of their own

Hooks of state_dict do not count: they do not change what is computed. A module that is not plain is simply called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules import module as base
from torch.nn.utils.parametrize import type_before_parametrizations


class Kind:
    """A class of modules, remembered as it was when defined.

    Args:
        cls: the class.

    Example:
        >>> linear = Kind(nn.Linear)
        >>> behaves_as(nn.Linear(1, 1), linear), behaves_as(nn.Identity(), linear)
        (True, False)
    """

    def __init__(self, cls: type[nn.Module]) -> None:
        self.cls, self.forward = cls, cls.forward
        self.methods = frozenset(name for name in dir(cls) if callable(getattr(cls, name)))


def behaves_as(module: nn.Module, kind: Kind, *, or_inherits: bool = False) -> bool:
    """Whether a call of the module runs its class's `forward` and nothing else. Its tensors are not looked at.

    Args:
        module: any module.
        kind: the class.
        or_inherits: whether a subclass that inherits `forward` will do.
    """
    cls = type_before_parametrizations(module)
    names = frozenset(kind.methods)  # the same set; the compiler of PyTorch 2.8 fails to guard one that it is handed
    return (
        (cls is kind.cls or (or_inherits and _inherits(cls, kind.cls)))
        and kind.cls.forward is kind.forward
        and names.isdisjoint(module.__dict__)
        and not has_hooks(module)
    )


def _inherits(cls: type[nn.Module], above: type[nn.Module]) -> bool:
    return issubclass(cls, above) and cls.forward is above.forward and cls.__call__ is above.__call__


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks of the module, or global ones, expect it to be called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or bool(base._has_any_global_hook())


def holds(
    module: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    optional: Collection[str] = (),
    parts: Iterable[str] = (),
) -> bool:
    """Whether a module holds these tensors and parts, and nothing else.

    Args:
        module: any module.
        shapes: of its own parameters.
        optional: those of them that may be None.
        parts: names of its submodules.
    """
    if module._parameters.keys() != shapes.keys() or module._buffers or [*module._modules] != [*parts]:
        return False
    return all(
        name in optional if value is None else _is_simple(value, shapes[name])
        for name, value in module._parameters.items()
    )


def _is_simple(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether it is an ordinary tensor, no subclass, of this shape."""
    return tuple(value.shape) == shape and not hasattr(type(value), "__tensor_flatten__")


def are_distinct(modules: Iterable[nn.Module]) -> bool:
    """Whether every parameter of these modules occurs once."""
    tensors = [id(value) for module in modules for value in module._parameters.values() if value is not None]
    return len(set(tensors)) == len(tensors)
