"""Options that every command has, and converters of their values."""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from cofm_triton.support.lock import FolderInUse, one_writer

_Value = TypeVar("_Value")

DEVICES = ("auto", "cpu", "cuda")
BYTE_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SEED_BITS = 43  # generators take 64-bit seeds, and `training.initial_model` multiplies by 1,000,003


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what can."""


def add_common_options(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Add --out, --device, --seed and --quiet.

    Args:
        parser: the command's parser.
        out: default folder, as shown to the user.
    """
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: {out})")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to compute; auto: on a GPU if there is one (default: auto)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="seed of all random numbers; equal seeds give equal files (default: 0)",
    )
    parser.add_argument("--quiet", action="store_true", help="print results only, no progress")


def require(modules: Sequence[str], extra: str) -> None:
    """Check for optional packages before long work starts.

    Args:
        modules: names to import.
        extra: the extra of this package that brings them.

    Raises:
        UsageError: one is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed: pip install 'cofm-triton[{extra}]' brings what is missing"
        )


def make_folder(path: Path | None) -> None:
    """Make the folder of --out, and check that it can be written before long work starts.

    Args:
        path: None where nothing is written.

    Raises:
        UsageError: it cannot be made or written.
    """
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions alone do not tell: file systems may be read-only
            pass
    except OSError as error:
        raise UsageError(f"--out {path} must be a folder that can be made and written: {error.strerror}") from error


@contextmanager
def own_folder(path: Path, job: str = "") -> Iterator[None]:
    """Make the folder of --out, and be the only one who writes to it for the length of a `with` block.

    Args:
        path: the folder.
        job: what the processes of one job have in common, see `one_writer`.

    Raises:
        UsageError: it cannot be made or written, or another process writes to it.
    """
    make_folder(path)
    try:
        with one_writer(path, job):
            yield
    except FolderInUse as error:
        raise UsageError(f"--out {path}: {error}; wait for it, or name another folder") from None


def seed(text: str) -> int:
    """An integer >= 0 from which all seeds of a command can be derived.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    value = _integer(text, 0)
    if value >= 2**SEED_BITS:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0 and < 2^{SEED_BITS}, got {text!r}")
    return value


def positive(text: str) -> int:
    """An integer >= 1.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    return _integer(text, 1)


def not_negative(text: str) -> int:
    """An integer >= 0.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    return _integer(text, 0)


def positive_number(text: str) -> float:
    """A finite number > 0.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    return _number(text, positive=True)


def byte_count(text: str) -> int:
    """A positive number of bytes: an integer, alone or with a unit, KiB, MiB or GiB.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    found = re.fullmatch(r"(\d+)\s*([KMG]iB)?", text)
    size = int(found[1]) * BYTE_UNITS.get(found[2], 1) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size like 500MiB or 2GiB, or a number of bytes, got {text!r}")
    return size


def radius_list(text: str) -> tuple[float, ...]:
    """Converter of comma-separated finite numbers >= 0, none twice."""
    return _distinct(tuple(_number(word, positive=False) for word in text.split(",")), text)


def number_list(text: str) -> tuple[float, ...]:
    """Converter of comma-separated finite numbers > 0, none twice, in ascending order."""
    return tuple(sorted(_distinct(tuple(_number(word, positive=True) for word in text.split(",")), text)))


def name_list(known: tuple[str, ...], every: str = "") -> Callable[[str], tuple[str, ...]]:
    """Converter of comma-separated names, each one of `known` and none twice; `every` stands for all of them."""

    def convert(text: str) -> tuple[str, ...]:
        if every and text == every:
            return known
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)} (give a list like a,b)")
        return _distinct(names, text)

    return convert


def width_list(text: str) -> tuple[int, ...]:
    """Converter of comma-separated positive integers, none twice."""
    return _distinct(tuple(positive(word) for word in text.split(",")), text)


def resolve_device(name: str) -> str:
    """The device an option stands for: "auto" is "cuda" where there is a GPU, else "cpu".

    Raises:
        UsageError: "cuda" without a usable GPU.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device cuda: torch finds no CUDA device here; accepted: auto, cpu")
    return ("cuda" if available else "cpu") if name == "auto" else name


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
    return value


def _number(text: str, *, positive: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf or (value == 0 and not positive)):
        raise argparse.ArgumentTypeError(f"expected a finite number {'>' if positive else '>='} 0, got {text!r}")
    return value


def _distinct(values: tuple[_Value, ...], text: str) -> tuple[_Value, ...]:
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names something twice")
    return values
