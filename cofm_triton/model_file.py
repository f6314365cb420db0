"""Model files: the weights of one `RNNFunctional` and the options that it is built with.

The format is safetensors: reading a file runs no code. The options are JSON, under the key "cofm" of the metadata.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from cofm_triton._version import __version__
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.modules.round_trip import check_round_trip
from cofm_triton.support.files import check_regular, write_bytes
from cofm_triton.support.scalars import as_int

_KEY = "cofm"
_SIZES = ("input_size", "hidden_size", "output_size")
_OPTIONS = (
    "num_layers",
    "nonlinearity",
    "bias",
    "dropout",
    "bidirectional",
    "parameterization",
    "recurrence",
    "dt",
    "discretization",
    "constrained",
    "oscillating",
    "normalize_input",
    "max_time_scale",
    "max_angle",  # of weights that are drawn anew
    "learnable_dt",
    "gated",
    "dt_min",
    "dt_max",
)


def save_model(path: str | os.PathLike[str], model: RNNFunctional, notes: dict[str, Any] | None = None) -> None:
    """Write a model to a file, atomically; equal models and notes give equal bytes.

    Args:
        path: usually ends in ".safetensors".
        model: its weights go to the file as they are, from any device.
        notes: JSON values to keep with it, such as how it was trained.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: `model` is no `RNNFunctional`, or `notes` are no dict of JSON values.
        ValueError: `notes` hold NaN or infinity, which JSON cannot express; or `load_model` could not restore the
            model: it is parametrised or pruned, its weights are tied or not dense, or a part of it was replaced. The
            message says what to do.

    Example:
        >>> save_model("example.safetensors", RNNFunctional(1, 4))
    """
    if type(model) is not RNNFunctional:  # a subclass would come back as what it was made from
        raise TypeError(f"model must be an RNNFunctional, got {type(model).__name__}")
    if not isinstance(notes, (dict, type(None))):
        raise TypeError(f"notes must be a dict or None, got {type(notes).__name__}")
    twin = _twin(model)
    check_round_trip(model, twin)
    header = {
        "version": __version__,
        "input_size": twin.rnn.input_size,
        "hidden_size": twin.rnn.hidden_size,
        "output_size": twin.readout.out_features,
        "options": {name: getattr(twin.rnn, name) for name in _OPTIONS},
        "notes": notes or {},
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with _safetensors_needed():
        from safetensors.torch import save
    write_bytes(path, save(tensors, metadata={_KEY: _json(header)}))


def _twin(model: RNNFunctional) -> RNNFunctional:
    """The model that `load_model` will build, on the meta device.

    Raises:
        ValueError: the parts of the model are not those of an `RNNFunctional`, or their attributes no options.
    """
    for name, kind in (("rnn", StableRNN), ("readout", torch.nn.Linear)):
        part = getattr(model, name)
        if type_before_parametrizations(part) is not kind:
            raise ValueError(
                f"model.{name} must be a {kind.__name__} to come back from a file, got {type(part).__name__}: "
                "save its state_dict instead"
            )
    options = {name: getattr(model.rnn, name) for name in _OPTIONS}
    sizes = model.rnn.input_size, model.rnn.hidden_size, model.readout.out_features
    try:
        return _build(sizes, options, torch.float32, "meta")
    except TypeError as error:
        raise ValueError(f"model has attributes that are no options: {error}") from error


def _build(sizes: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype, device: str) -> RNNFunctional:
    """A model with fresh weights, to be filled. Torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about options: whoever made the model has heard it
        return RNNFunctional(*sizes, dtype=dtype, device=device, **options)


def load_model(path: str | os.PathLike[str], device: torch.device | str | None = None) -> RNNFunctional:
    """Read a model that `save_model` wrote.

    Args:
        path: the file.
        device: where to put it; None is the CPU.

    Returns:
        The model, each weight with the dtype that it was saved with.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError, PermissionError: no such file, or not for this user.
        ValueError: the file is no model file, or one that a later version wrote.

    Example:
        >>> save_model("example.safetensors", RNNFunctional(1, 4))
        >>> load_model("example.safetensors").rnn.hidden_size
        4
    """
    header, tensors = _read(path)
    with _refusing(path):
        _check_version(header.get("version", __version__))
        sizes, options = tuple(header[name] for name in _SIZES), _modern(header["options"])
        _check_count(sizes, options, sum(tensor.numel() for tensor in tensors.values()))
        model = _build(sizes, options, tensors["rnn.rate_l0"].dtype, "cpu")  # another device is no fault of the file
        tensors.setdefault("rnn._extra_state", model.rnn.get_extra_state())  # earlier versions wrote none
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(tensors.get(name, parameter).dtype)
        model.load_state_dict(tensors)
    return model.to(device)


def _check_version(written: Any) -> None:
    """Raise ValueError if a later version wrote the file, to which the same options may mean something else."""
    numbers = [re.match(r"(\d+)\.(\d+)", version) for version in (str(written), __version__)]
    theirs, ours = (None if found is None else tuple(map(int, found.groups())) for found in numbers)
    if theirs is None or ours is None or theirs > ours:
        raise ValueError(f"cofm_triton {written} wrote it, this is {__version__}: update it")


def _modern(options: Any) -> Any:
    """Options under today's names: `normalize_input=True` of earlier versions is "paper"."""
    if isinstance(options, dict) and "oscillating" not in options and options.get("normalize_input") is True:
        return {**options, "normalize_input": "paper"}
    return options


def _check_count(sizes: tuple[Any, ...], options: Any, count: int) -> None:
    """Raise ValueError if the file holds too few numbers for the sizes in its header, before the model is built.

    Sizes that are no positive integers are refused by the model's own checks.
    """
    options = options if isinstance(options, dict) else {}
    layers, directions = as_int(options.get("num_layers", 1)), 1 + (options.get("bidirectional") is True)
    d, m, p = (as_int(size) for size in sizes)
    if d is None or m is None or p is None or layers is None or min(d, m, p, layers) < 1:
        return
    turns = (m - 1) // 2 if options.get("recurrence") in ("orthogonal", "dense") else 0
    per_unit = layers * (1 + turns) + d + (layers - 1) * directions * m + p
    if directions * m * per_unit > count:
        raise ValueError(f"its header asks for at least {directions * m * per_unit} numbers, it holds {count}")


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes kept with a model; errors as `load_model`."""
    notes: dict[str, Any] = _read(path)[0]["notes"]
    return notes


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header, with the keys that `save_model` writes, and tensors."""
    with _safetensors_needed():
        from safetensors import safe_open
    with _refusing(path):
        check_regular(path)
    with _refusing(path), safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_KEY, "null"))
        if not isinstance(header, dict) or not isinstance(header.get("notes"), dict):
            raise ValueError(f"its metadata have no dict with notes under {_KEY!r}")
        names = file.keys()
        return header, {name: file.get_tensor(name) for name in names}


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors about the content of a file into a ValueError that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else f"{error}"
        raise ValueError(f"path must be a cofm model file, {os.fspath(path)!r} is none: {reason}") from error


@contextmanager
def _safetensors_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError("model files need safetensors: pip install 'cofm-triton[reproduce]' brings it") from error


def _json(header: dict[str, Any]) -> str:
    try:
        return json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"notes must be JSON values: {error}") from error
