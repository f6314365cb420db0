"""Model files: the weights of one `RNNFunctional` and the options that it is built with.

The format is safetensors: reading one runs no code. The options are JSON under the key "cofm" of
its metadata, so one file is one model.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch

from cofm_triton._version import __version__
from cofm_triton.files import write_bytes
from cofm_triton.layers import RNNFunctional

_KEY = "cofm"
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
)


def save_model(path: str | os.PathLike[str], model: RNNFunctional, notes: dict[str, Any] | None = None) -> None:
    """Write a model to a file, atomically; equal models and notes give equal bytes.

    Args:
        path: usually ends in ".safetensors".
        model: its weights go to the file as they are, from any device.
        notes: JSON values to keep with it, such as how it was trained.

    Raises:
        TypeError: `model` is no `RNNFunctional`, or `notes` are no JSON values.

    Example:
        >>> save_model("/dev/shm/example.safetensors", RNNFunctional(1, 4))
    """
    from safetensors.torch import save

    if not isinstance(model, RNNFunctional):
        raise TypeError(f"model must be an RNNFunctional, got {type(model).__name__}")
    header = {
        "version": __version__,
        "input_size": model.rnn.input_size,
        "hidden_size": model.rnn.hidden_size,
        "output_size": model.readout.out_features,
        "options": {name: getattr(model.rnn, name) for name in _OPTIONS},
        "notes": notes or {},
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_bytes(path, save(tensors, metadata={_KEY: json.dumps(header)}))


def load_model(path: str | os.PathLike[str], device: torch.device | str | None = None) -> RNNFunctional:
    """Read a model that `save_model` wrote.

    Args:
        path: the file.
        device: where to put it; None is the CPU.

    Returns:
        The model, with the dtype of the saved weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no model file.

    Example:
        >>> save_model("/dev/shm/example.safetensors", RNNFunctional(1, 4))
        >>> load_model("/dev/shm/example.safetensors").rnn.hidden_size
        4
    """
    header, tensors = _read(path)
    model = RNNFunctional(
        header["input_size"],
        header["hidden_size"],
        header["output_size"],
        dtype=tensors["rnn.rate_l0"].dtype,
        device=device,
        **header["options"],
    )
    model.load_state_dict(tensors)
    return model


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes kept with a model; errors as `load_model`."""
    notes: dict[str, Any] = _read(path)[0]["notes"]
    return notes


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"path must be a cofm model file, {os.fspath(path)!r} is none") from error
