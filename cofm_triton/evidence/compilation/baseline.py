"""The numbers of the last version that somebody looked at, and whether a kernel has become worse since.

They belong to one release of Triton; another one compiles other code, and nothing can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cofm_triton.evidence.compilation.launches import label
from cofm_triton.evidence.compilation.offline import TARGETS, Compiled
from cofm_triton.evidence.registry import compilations
from cofm_triton.support.files import write_text

# Registers are given to threads in units of 8 on every target: fewer do not change what runs side by side.
REGISTERS = 8
# Instructions per element that come and go with the order of operations.
INSTRUCTIONS = 1.02


def write(path: Path, compiled: Sequence[Compiled], about: dict[str, Any]) -> None:
    """Write what `cofm kernels` found, whole or not at all.

    Args:
        path: of the JSON file.
        compiled: what was compiled.
        about: machine, versions and date.
    """
    content = {**about, "triton": version("triton"), "kernels": [entry.as_dict() for entry in compiled]}
    write_text(path, json.dumps(content, indent=1) + "\n")


def update(path: Path, compiled: Sequence[Compiled], about: dict[str, Any]) -> None:
    """As `write`; what the file knows, of the same Triton, of targets and operators not compiled today stays in it."""
    triton, known = read(path) if path.is_file() else ("", {})
    today = {(entry.target, entry.operator) for entry in compiled}
    kept = [entry for entry in known.values() if triton == version("triton")]
    kept = [entry for entry in kept if (entry.target, entry.operator) not in today]
    write(path, sorted([*kept, *compiled], key=lambda entry: (TARGETS.index(entry.target), entry.operator)), about)


def usual(compiled: Iterable[Compiled]) -> list[Compiled]:
    """Those of the usual configurations."""
    names = {(name, label(options)) for name, part in compilations().items() for options in part.usual}
    return [entry for entry in compiled if (entry.operator, entry.configuration) in names]


def read(path: Path) -> tuple[str, dict[tuple[str, str], Compiled]]:
    """Triton's version and the kernels of a file, by target and key."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kernels = [Compiled(**entry) for entry in content["kernels"]]
    return content["triton"], {(entry.target, entry.key): entry for entry in kernels}


def worse(compiled: Sequence[Compiled], path: Path) -> Iterator[str]:
    """What has become worse, a line each; nothing if the file is another Triton's.

    Kernels that the file does not know are new, and no worse than nothing.

    Args:
        compiled: today's.
        path: of the JSON file.
    """
    triton, known = read(path)
    if triton != version("triton"):
        return
    for entry in compiled:
        before = known.get((entry.target, entry.key))
        if before is None:
            continue
        name = f"{entry.target} {entry.key}"
        if entry.spilled > before.spilled:
            yield f"{name}: spills {entry.spilled}, {before.spilled} before"
        if entry.registers > before.registers + REGISTERS:
            yield f"{name}: {entry.registers} registers, {before.registers} before"
        if entry.total and before.total and entry.total > before.total * INSTRUCTIONS:
            yield f"{name}: {entry.total:.2f} instructions per element, {before.total:.2f} before"
