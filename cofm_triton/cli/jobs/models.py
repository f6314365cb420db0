"""The models of a job: from model files, or from a user's function."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.options import UsageError

if TYPE_CHECKING:
    from torch import nn

HELP = (
    "a model file (written by cofm_triton.model_file.save_model), or MODULE:FUNCTION, a function that returns a "
    "torch.nn.Module"
)


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function inside a module: another one in every process


@dataclass(frozen=True)
class NamedModel:
    """A model of a job.

    Attributes:
        name: for tables and file names.
        source: as the user gave it.
        module: the model, in evaluation mode.
    """

    name: str
    source: str
    module: nn.Module

    def as_dict(self) -> dict[str, Any]:
        """What identifies the model, JSON values. Models with equal dicts give equal results."""
        return {"name": self.name, "sha256": self._digest()}

    def _digest(self) -> str:
        """A hash of options, tensors, which of them are shared, and the user's code, which defines `forward`."""
        import torch

        digest = hashlib.sha256(_ADDRESS.sub("", repr(self.module)).encode())
        digest.update(" ".join(name for name, _ in self.module.named_parameters()).encode())
        for name, value in (*self.module.state_dict().items(), *self.module.named_buffers()):
            if not isinstance(value, torch.Tensor):  # what `get_extra_state` returns
                digest.update(_ADDRESS.sub("", f"{name} {value!r}").encode())
                continue
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        for path in self._files():
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _files(self) -> list[Path]:
        """Source files of the user's function and classes. Ours and torch's are identified by their versions."""
        names = {type(module).__module__ for module in self.module.modules()} | {self.source.partition(":")[0]}
        own = [name for name in sorted(names) if name.partition(".")[0] not in ("torch", "cofm_triton")]
        files = (getattr(sys.modules.get(name), "__file__", None) for name in own)
        return [Path(file) for file in files if file]


def load_models(sources: Sequence[str], device: str, seed: int) -> list[NamedModel]:
    """The models, named after their files or functions.

    Args:
        sources: see `HELP`.
        device: where to put them.
        seed: of torch's random numbers when a user's function is called.

    Raises:
        UsageError: no such file, module or function, a function that fails, two models of one name, or parameters that
            are not finite.
    """
    models = [_load(source, device, seed) for source in sources]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"MODEL: two models have the name {name!r}; give files of different names")
    for model in models:
        for parameter, value in model.module.named_parameters():
            if not bool(value.isfinite().all()):
                raise UsageError(f"MODEL {model.name}: its parameter {parameter} holds NaN or infinity")
    return models


def _load(source: str, device: str, seed: int) -> NamedModel:
    path = Path(source)
    if path.is_file():
        from cofm_triton.model_file import load_model

        try:
            return NamedModel(_file_name(path.stem), source, load_model(path, device).eval())
        except (OSError, ValueError) as error:
            raise UsageError(f"MODEL: {error}") from error
    if ":" not in source:
        raise UsageError(f"MODEL: no file {source!r}; accepted: {HELP}")
    return NamedModel(_file_name(source), source, _made(source, seed).to(device).eval())


def _made(source: str, seed: int) -> nn.Module:
    """What MODULE:FUNCTION returns; the current folder is searched too."""
    import torch

    module, _, function = source.partition(":")
    sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing runs the user's code
        raise UsageError(f"MODEL: cannot import {source!r}: {_described(error)}") from error
    finally:
        sys.path.remove("")
    torch.manual_seed(seed)
    try:
        model = factory()
    except Exception as error:
        raise UsageError(f"MODEL: {source} failed when called without arguments: {_described(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"MODEL: {source} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)
