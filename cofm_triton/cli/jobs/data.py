"""The sequences on which models are evaluated: those of a target functional, or the user's own."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.options import UsageError, positive, positive_number
from cofm_triton.support.files import check_regular

if TYPE_CHECKING:
    from torch import Tensor

TRAIN, TEST, HORIZON = range(3)
"""Data sets of a target functional. Each has its own random numbers, see `data_seed`."""


_TARGET_OPTIONS = {"sequences": 512, "length": 100, "dt": 1.0}  # and their defaults


def data_seed(seed: int, data_set: int) -> int:
    """Seed of one data set of a job with a seed."""
    return 3 * seed + data_set


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --target, --sequences, --length and --dt, or --data instead."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--target", metavar="NAME", help="evaluate on data of this target functional, such as exp or pol"
    )
    source.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="evaluate on a .npz file with arrays inputs (N, T, d) and targets (N, T, p)",
    )
    default = _TARGET_OPTIONS
    parser.add_argument(
        "--sequences", type=positive, metavar="N", help=f"sequences of the target (default: {default['sequences']})"
    )
    parser.add_argument(
        "--length", type=positive, metavar="T", help=f"time steps of the target (default: {default['length']})"
    )
    parser.add_argument("--dt", type=positive_number, help=f"time step of the target (default: {default['dt']:g})")


@dataclass(frozen=True)
class Data:
    """Inputs (N, T, d) and targets (N, T, p), float64 on the CPU, and where they come from."""

    inputs: Tensor
    targets: Tensor
    source: dict[str, Any]

    @property
    def option(self) -> str:
        """The option that asked for them, which errors name."""
        return "--data" if "file" in self.source else "--target"


def load_data(arguments: argparse.Namespace) -> Data:
    """The data that the options of `add_data_options` ask for.

    Raises:
        UsageError: no such target or file, a file that holds something else, or options of a target beside --data.
    """
    given = {name: getattr(arguments, name) for name in _TARGET_OPTIONS if getattr(arguments, name) is not None}
    if arguments.data is not None:
        if given:
            raise UsageError(f"{', '.join(f'--{name}' for name in given)}: for data of a --target, not for --data")
        return _read(arguments.data)
    from cofm_triton.targets import TARGETS, generate

    if arguments.target not in TARGETS:
        raise UsageError(f"--target must be one of {', '.join(TARGETS)}, got {arguments.target!r}")
    seed = data_seed(arguments.seed, TEST)
    count, length, dt = (_TARGET_OPTIONS | given).values()
    options = {"num_sequences": count, "length": length, "dt": dt, "seed": seed}
    inputs, targets = generate(arguments.target, **options)
    return Data(inputs, targets, {"target": arguments.target, **options})


def _read(path: Path) -> Data:
    import numpy as np

    try:
        check_regular(path)
        with np.load(path) as arrays:
            inputs, targets = (_real(name, arrays[name]) for name in ("inputs", "targets"))
    except FileNotFoundError:
        raise UsageError(f"--data: no file {str(path)!r}") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"--data: {path} must be a .npz file with arrays inputs and targets: {error}") from error
    digest = hashlib.sha256()
    for values in (inputs, targets):
        digest.update(f"{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return Data(inputs, targets, {"file": str(path), "sha256": digest.hexdigest()})


def _real(name: str, values: Any) -> Tensor:
    """A numpy array as float64, unless that would drop imaginary parts or make numbers of something else."""
    import torch

    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got {values.dtype}")
    return torch.from_numpy(values.astype("float64"))
