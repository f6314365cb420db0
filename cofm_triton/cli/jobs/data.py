"""Sequences that models are judged by: those of a target functional, or the user's own."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.options import UsageError, positive, positive_number

if TYPE_CHECKING:
    from torch import Tensor

TRAIN, TEST, HORIZON = range(3)
"""Data sets of a target functional: each has random numbers of its own, see `data_seed`."""


def data_seed(seed: int, data_set: int) -> int:
    """Seed of one data set of a job with a seed."""
    return 3 * seed + data_set


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --target, --sequences, --length and --dt, or --data instead."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--target", metavar="NAME", help="judge by data of this target functional, such as exp or pol")
    source.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="judge by a .npz file with arrays inputs (N, T, d) and targets (N, T, p)",
    )
    parser.add_argument("--sequences", type=positive, metavar="N", default=512, help="of the target (default: 512)")
    parser.add_argument("--length", type=positive, metavar="T", default=100, help="steps (default: 100)")
    parser.add_argument("--dt", type=positive_number, default=1.0, help="step of the target, time (default: 1)")


@dataclass(frozen=True)
class Data:
    """Inputs (N, T, d) and targets (N, T, p), float64 on the CPU, and where they come from."""

    inputs: Tensor
    targets: Tensor
    source: dict[str, Any]


def load_data(arguments: argparse.Namespace) -> Data:
    """The data that the options of `add_data_options` ask for.

    Raises:
        UsageError: no such target or file, or a file that holds something else.
    """
    if arguments.data is not None:
        return _read(arguments.data)
    from cofm_triton.targets import TARGETS, generate

    if arguments.target not in TARGETS:
        raise UsageError(f"--target must be one of {', '.join(TARGETS)}, got {arguments.target!r}")
    seed = data_seed(arguments.seed, TEST)
    shape = {"num_sequences": arguments.sequences, "length": arguments.length}
    inputs, targets = generate(arguments.target, **shape, dt=arguments.dt, seed=seed)
    return Data(inputs, targets, {"target": arguments.target, **shape, "dt": arguments.dt, "seed": seed})


def _read(path: Path) -> Data:
    import numpy as np
    import torch

    try:
        with np.load(path) as arrays:
            inputs, targets = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("inputs", "targets"))
    except FileNotFoundError:
        raise UsageError(f"--data: no file {str(path)!r}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--data: {path} must be a .npz file with arrays inputs and targets: {error}") from error
    digest = hashlib.sha256(b"".join(values.numpy().tobytes() for values in (inputs, targets))).hexdigest()
    return Data(inputs, targets, {"file": str(path), "sha256": digest})
