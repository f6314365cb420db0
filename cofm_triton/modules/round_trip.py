"""Whether a file of weights and options brings a model back.

What loads the file builds a model anew and fills it. So the model that is saved must be what its options make: the
same modules, the same names and shapes, every weight with numbers of its own.
"""

from __future__ import annotations

import re
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from cofm_triton.ops.dtypes import REAL_DTYPES

# Names that PyTorch's tools leave in a state_dict, and what takes them out again; the first that fits counts.
_REMEDIES = (
    (re.compile(r"(?:(?P<module>.+)\.)?parametrizations\.(?P<name>[^.]+)\..+"), "parametrize.remove_parametrizations"),
    (re.compile(r"(?:(?P<module>.+)\.)?(?P<name>[^.]+)_mask"), "prune.remove"),
    (re.compile(r"(?:(?P<module>.+)\.)?(?P<name>[^.]+)_u"), "remove_spectral_norm"),
    (re.compile(r"(?:(?P<module>.+)\.)?(?P<name>[^.]+)_g"), "remove_weight_norm"),
)


def check_round_trip(model: nn.Module, twin: nn.Module) -> None:
    """Compare a model with one built from its options; values are not looked at, the twin may be a meta one.

    Raises:
        ValueError: a file would not bring the model back; the message says what and what to do.
    """
    state, expected = model.state_dict(), twin.state_dict()
    _check_names(state.keys() - expected.keys(), expected.keys() - state.keys())
    _check_structure(model, twin)
    tensors = {name: value for name, value in state.items() if not name.endswith("_extra_state")}
    for name, value in tensors.items():
        _check_tensor(name, value, expected[name].shape)
    for first, second in tied(tensors):
        raise ValueError(
            f"model ties {first} and {second}, which a file brings back as two: give each numbers of its own, "
            "torch.nn.Parameter(weight.detach().clone()), before it is saved"
        )


def _check_names(extra: set[str], missing: set[str]) -> None:
    if extra:
        raise ValueError(
            f"model holds {', '.join(sorted(extra))}, which a model built from its options has not: {_remedy(extra)}"
        )
    if missing:
        raise ValueError(
            f"model lacks {', '.join(sorted(missing))}, which a model built from its options has: "
            "save its state_dict instead"
        )


def _remedy(extra: set[str]) -> str:
    for pattern, removal in _REMEDIES:
        for found in filter(None, map(pattern.fullmatch, sorted(extra))):
            module = ".".join(filter(None, ("model", found["module"])))
            return f"call torch.nn.utils.{removal}({module}, {found['name']!r}) before it is saved"
    return "save its state_dict instead"


def _check_structure(model: nn.Module, twin: nn.Module) -> None:
    """Modules of the same classes, parameters and buffers of the same names, methods of their classes."""
    ours = {name: type_before_parametrizations(module) for name, module in model.named_modules(remove_duplicate=False)}
    theirs = {name: type_before_parametrizations(module) for name, module in twin.named_modules(remove_duplicate=False)}
    for name in ours | theirs:
        if ours.get(name) is not theirs.get(name):
            given, built = (kinds[name].__name__ if name in kinds else "nothing" for kinds in (ours, theirs))
            raise ValueError(f"model has {given} as {name}, its options make {built}: save its state_dict instead")
    for kind in ("named_parameters", "named_buffers"):
        own, other = (dict(getattr(m, kind)(remove_duplicate=False)).keys() for m in (model, twin))
        for name in sorted(own ^ other):
            raise ValueError(
                f"model {'holds' if name in own else 'lacks'} {name} in its {kind}, unlike what its options make: "
                "save its state_dict instead"
            )
    for name, module in model.named_modules():
        if "forward" in vars(module):
            raise ValueError(f"model has another forward in {name or 'itself'}, which no file brings back: delete it")


def _check_tensor(name: str, value: object, shape: torch.Size) -> None:
    if type(value) is not Tensor or value.layout is not torch.strided or value.dtype not in REAL_DTYPES:
        given = f"{type(value).__name__}"
        if isinstance(value, Tensor):
            given += f" of {value.dtype}, {value.layout}"
        raise ValueError(f"model holds {name} as a {given}: make it a dense tensor of one of {REAL_DTYPES} to save it")
    if value.is_meta:
        raise ValueError(f"model has {name} on the meta device, without numbers: load or draw its weights first")
    if value.shape != shape:
        raise ValueError(
            f"model has {name} of shape {tuple(value.shape)}, its options make {tuple(shape)}: "
            "build the model anew with other options to change a size"
        )


def tied(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of names whose memory overlaps.

    Example:
        >>> x = torch.zeros(4)
        >>> tied({"a": x[:2], "b": x[1:], "c": x.clone()})
        [('a', 'b')]
    """
    spans = sorted(
        (value.untyped_storage().data_ptr(), value.storage_offset() * value.itemsize, name)
        for name, value in tensors.items()
        if value.numel()
    )
    found = []
    for (storage, start, name), (other_storage, other_start, other) in pairwise(spans):
        value = tensors[name]
        last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        if storage == other_storage and other_start < start + (last + 1) * value.itemsize:
            found.append((name, other))
    return found
