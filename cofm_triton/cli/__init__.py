"""The command `cofm`: one file per command in this folder, entered in `COMMANDS`.

A command's module has `add_arguments(parser)` and `run(arguments) -> exit status`. Only the module of the command asked
for is imported, and torch only inside `run`: `--help` answers at once.

Exit statuses: 0 done; 1 done, and the answer is no (each command says what that means); 2 wrong usage; 3 failed, as on
a full disk; 130 interrupted. After 3 and 130 the same command continues.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from cofm_triton._version import __version__
from cofm_triton.cli.options import UsageError

COMMANDS: dict[str, str] = {
    "reproduce": "the paper's experiment: train models, perturb them, decide which are stable",
    "sweep": "errors of perturbed models, over radii and directions",
    "memory": "memory functions of models and how fast they decay, before and after perturbation",
    "stablessm": "gradients over weights and stable learning rates of every parameterization",
    "bench": "time against sequence length, beside a copy and other libraries",
    "kernels": "what the compiler makes of each GPU kernel; needs no GPU",
    "validate": "compare every operator with its definition in float64, on every backend present",
    "info": "versions, devices, backends and caches: what a report of a fault should say",
}
"""Each command, which is a module of this folder, and what it does."""

FAILED = 3
"""Exit status after an error that is not the user's: what Python itself would return, 1, is an answer here."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count it (128 + SIGINT)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None: those of the process.

    Returns:
        The exit status, see the module.

    Raises:
        SystemExit: after `--help` and `--version` (status 0) and wrong usage (status 2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    module = import_module(f"{__name__}.{arguments.command}")
    try:
        return int(module.run(arguments))
    except (UsageError, FileExistsError) as error:
        print(f"cofm {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cofm {arguments.command}: error: {error}", file=sys.stderr)
        return FAILED
    except Exception:  # whatever it is, its status must not read as an answer
        traceback.print_exc()
        return FAILED
    except KeyboardInterrupt:
        print(f"cofm {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Parser of all commands. Only the command named in `words` gets its options."""
    parser = argparse.ArgumentParser(prog="cofm", description="Memory and stability of recurrent networks.")
    parser.add_argument("--version", action="version", version=f"cofm_triton {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=f"{name}: {purpose}.")
        if name in words:
            _declare(command, name)
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command, with all its options.

    Example:
        >>> parser_of("validate").parse_args(["--exhaustive"]).exhaustive
        True
    """
    parser = argparse.ArgumentParser(prog=f"cofm {name}", description=f"{name}: {COMMANDS[name]}.")
    _declare(parser, name)
    return parser


def _declare(parser: argparse.ArgumentParser, name: str) -> None:
    import_module(f"{__name__}.{name}").add_arguments(parser)
