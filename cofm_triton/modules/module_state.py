"""A user's module: called with other tensors, and left as it was.

Tensors are put in the module itself, and what was there is put back whatever happens. A copy would not do: methods
replaced on a module, hooks and lists keep hold of the original, and locks, files or weights made by hooks cannot be
copied. Tensors are told apart by identity: by name, as in `torch.func.functional_call`, a module with two names would
not be put back.

These context managers are classes: a generator that Ctrl-C has left behind would put back at any later time.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_NOTHING: Mapping[str, Tensor] = {}


class Preserved:
    """Whatever happens, every submodule has its attributes, parameters, buffers, parts, hooks and modes back.

    Attributes that are lists, dicts and sets have their entries back too. What is inside of tensors is not kept:
    `OtherTensors` has copies of them.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._saved: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._saved = [(container, _copied(container)) for container in _containers(self.model)]
        try:
            self._change()
        except BaseException:
            self._put_back()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._put_back()
        except BaseException:  # Ctrl-C in between: once more from the start
            self._put_back()
            raise

    def _change(self) -> None:
        """What is to be undone."""

    def _put_back(self) -> None:
        for container, entries in self._saved:
            _restore(container, entries)


class EvaluationMode(Preserved):
    """Evaluation mode (no dropout) for every submodule, and everything back as it was.

    The flag is set, nobody's own `eval` is called: some merge weights in it.
    """

    def _change(self) -> None:
        for module in self.model.modules():
            module.training = False


class OtherTensors(Preserved):
    """A module with other parameters, wherever they are used; all other tensors are copies, and may be written to.

    Args:
        model: whose tensors are replaced, and put back at the end.
        values: {name as in `named_parameters()`: tensor}.
        dtype: of all other floating-point tensors; None: their own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with torch.no_grad(), OtherTensors(layer, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}):
        ...     layer(torch.tensor([3.0]))
        tensor([3.])
    """

    def __init__(
        self, model: nn.Module, values: Mapping[str, Tensor] = _NOTHING, *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(model)
        self._values, self._dtype = values, dtype
        # Inside `parametrize.cached()` PyTorch would hand out what it has made of the module's own tensors.
        names = ("_cache_enabled", "_cache")
        self._cached = {name: getattr(parametrize, name) for name in names if hasattr(parametrize, name)}

    def _change(self) -> None:
        vars(parametrize).update({name: type(value)() for name, value in self._cached.items()})
        own = self.model.named_parameters()
        new = {id(parameter): self._values[name] for name, parameter in own if name in self._values}
        for container, entries in self._saved:
            if isinstance(container, set):
                continue
            for key, value in entries.items() if isinstance(container, dict) else enumerate(entries):
                if isinstance(value, Tensor):
                    if id(value) not in new:
                        new[id(value)] = cast(value, self._dtype).clone()
                    container[key] = new[id(value)]

    def _put_back(self) -> None:
        super()._put_back()
        vars(parametrize).update(self._cached)


def _containers(model: nn.Module) -> list[Any]:
    """Attributes of every submodule, and those of them that hold others."""
    found: list[Any] = []
    for module in model.modules():
        attributes = vars(module)
        found.append(attributes)
        found.extend(value for value in attributes.values() if isinstance(value, (dict, list, set)))
    return found


def _copied(container: Any) -> Any:
    """Its entries, in a container of the plainest kind."""
    return next(kind(container) for kind in (dict, list, set) if isinstance(container, kind))


def _restore(container: Any, entries: Any) -> None:
    """Give a container its entries back; one that was there all along does not miss meanwhile."""
    now, before = _content(container), _content(entries)
    if len(now) == len(before) and all(map(operator.is_, now, before)):
        return  # some containers cannot be written to
    if isinstance(container, list):
        container[:] = entries
        return
    if not all(map(operator.is_, container, entries)):
        container.clear()  # to have them back in their order
    container.update(entries)
    for key in [key for key in container if key not in entries]:
        container.pop(key) if isinstance(container, dict) else container.remove(key)


def _content(container: Any) -> list[Any]:
    """Keys and values, or elements."""
    return [*chain.from_iterable(container.items())] if isinstance(container, dict) else [*container]


def cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor without its history, real and complex numbers with the digits of `dtype`, others as they are.

    Example:
        >>> [cast(torch.ones(1, dtype=kind), torch.float64).dtype for kind in (torch.complex64, torch.int32)]
        [torch.complex128, torch.int32]
    """
    value = value.detach()
    if dtype is None or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.to(dtype.to_complex() if value.is_complex() else dtype)
