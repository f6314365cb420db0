"""Model files: the weights of one `RNNFunctional` and the options that it is built with.

The format is safetensors: reading one runs no code. The options are JSON under the key "cofm" of
its metadata, so one file is one model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cofm_triton._version import __version__
from cofm_triton.files import write_bytes
from cofm_triton.layers import RNNFunctional

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
    "normalize_input",
    "max_time_scale",  # of weights that are drawn anew
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
        ValueError: `notes` hold NaN or infinity, which are no JSON values either.

    Example:
        >>> save_model("/dev/shm/example.safetensors", RNNFunctional(1, 4))
    """
    if type(model) is not RNNFunctional:  # a subclass would come back as what it was made from
        raise TypeError(f"model must be an RNNFunctional, got {type(model).__name__}")
    if not isinstance(notes, (dict, type(None))):
        raise TypeError(f"notes must be a dict or None, got {type(notes).__name__}")
    header = {
        "version": __version__,
        "input_size": model.rnn.input_size,
        "hidden_size": model.rnn.hidden_size,
        "output_size": model.readout.out_features,
        "options": {name: getattr(model.rnn, name) for name in _OPTIONS},
        "notes": notes or {},
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with _safetensors_needed():
        from safetensors.torch import save
    write_bytes(path, save(tensors, metadata={_KEY: _json(header)}))


def load_model(path: str | os.PathLike[str], device: torch.device | str | None = None) -> RNNFunctional:
    """Read a model that `save_model` wrote.

    Args:
        path: the file.
        device: where to put it; None is the CPU.

    Returns:
        The model, with the dtype of the saved weights.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError, PermissionError: no such file, or not for this user.
        ValueError: the file is no model file.

    Example:
        >>> save_model("/dev/shm/example.safetensors", RNNFunctional(1, 4))
        >>> load_model("/dev/shm/example.safetensors").rnn.hidden_size
        4
    """
    header, tensors = _read(path)
    with _refusing(path):
        model = RNNFunctional(
            *(header[name] for name in _SIZES),
            dtype=tensors["rnn.rate_l0"].dtype,
            device="cpu",  # what a device cannot do is no fault of the file
            **header["options"],
        )
        model.load_state_dict(tensors)
    return model.to(device)


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes kept with a model; errors as `load_model`."""
    notes: dict[str, Any] = _read(path)[0]["notes"]
    return notes


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header, with the keys that `save_model` writes, and tensors."""
    with _safetensors_needed():
        from safetensors import safe_open
    with _refusing(path), safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_KEY, "null"))
        if not isinstance(header, dict) or not isinstance(header.get("notes"), dict):
            raise ValueError(f"its metadata have no dict with notes under {_KEY!r}")
        names = file.keys()
        return header, {name: file.get_tensor(name) for name in names}


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong with the content of a file into a ValueError that names it."""
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
