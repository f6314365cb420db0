"""Whether a module does no more than its class says: only then may a shortcut compute what a call of it would.

What can be added to a module, all of which a shortcut would pass by:

    another class           a subclass, `torch.compile`, other wrappers, a module put in another's place
    other functions         `module.forward = f` and every other method; `Class.forward = f` for all modules
    hooks                   of the module or of all modules, forward and backward
    other tensors           parametrised, shared or of another shape; buffers and attributes in place of parameters;
                            tensor subclasses, which compute by rules of their own

Hooks of state dicts, and values of the class's own options, change nothing that is computed. A module that is not plain
is right as well: it is called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules import module as base
from torch.nn.utils.parametrize import type_before_parametrizations


class Kind:
    """A class of modules as it is when it is defined.

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
    """Whether a call of the module is a call of its class's `forward`, whatever its tensors are made of.

    Args:
        module: any module.
        kind: the class.
        or_inherits: whether it may be a class below, which inherits `forward`.
    """
    cls = type_before_parametrizations(module)
    return (
        (cls is kind.cls or (or_inherits and _inherits(cls, kind.cls)))
        and kind.cls.forward is kind.forward
        and kind.methods.isdisjoint(module.__dict__)
        and not has_hooks(module)
    )


def _inherits(cls: type[nn.Module], above: type[nn.Module]) -> bool:
    return issubclass(cls, above) and cls.forward is above.forward and cls.__call__ is above.__call__


def has_hooks(module: nn.Module) -> bool:
    """Whether something listens to calls of the module, or of all modules: calls that therefore have to happen."""
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
    """Whether it is a tensor of a shape that computes as tensors do."""
    return tuple(value.shape) == shape and not hasattr(type(value), "__tensor_flatten__")


def are_distinct(modules: Iterable[nn.Module]) -> bool:
    """Whether no parameter has two places."""
    tensors = [id(value) for module in modules for value in module._parameters.values() if value is not None]
    return len(set(tensors)) == len(tensors)
