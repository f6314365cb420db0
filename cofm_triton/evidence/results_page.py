"""The page of results, `bench/RESULTS.md`: everything on it comes from the JSON files beside it.

They are `scaling.json` (from `cofm bench --out bench/results`), `bench.json` (`make bench`), `validate.json`
(`cofm validate --out bench/results`) and `kernels.json` (`cofm kernels --write-baseline`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cofm_triton.evidence import machine
from cofm_triton.support.files import write_text

FOLDER = Path("bench", "results")
PAGE = Path("bench", "RESULTS.md")
SCALING, BENCH, VALIDATE, KERNELS = "scaling.json", "bench.json", "validate.json", "kernels.json"


def write_page(folder: Path, page: Path) -> Path:
    """Write the page from the files that are there, and return its path.

    Args:
        folder: of the JSON files.
        page: the file to write.

    Raises:
        FileNotFoundError: the folder holds none of the files.
    """
    found = [name for name in (SCALING, BENCH, VALIDATE, KERNELS) if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} holds none of {SCALING}, {BENCH}, {VALIDATE}, {KERNELS}")
    write_text(page, "\n".join(_page(folder, page, found)) + "\n")
    return page


def _page(folder: Path, page: Path, found: Sequence[str]) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield "Written by `make results` from the files in `bench/results/`; not to be edited."
    measured = [_machine(folder / name) for name in (SCALING, BENCH) if name in found]
    if not any(where["device_type"] == "cuda" for where in measured):
        yield ""
        yield "**Nothing here was measured on a GPU.** Times are of the CPU path; what is said of GPUs is read off the"
        yield "compiled code."
    sections = {SCALING: _scaling, BENCH: _bench, VALIDATE: _validation, KERNELS: _kernels}
    for name in found:
        yield ""
        yield from sections[name](folder / name, page)


def _scaling(path: Path, page: Path) -> Iterator[str]:
    yield "## Time against the length of a sequence"
    yield ""
    yield from _source(path)
    picture = path.with_suffix(".png")
    if picture.is_file():
        yield ""
        yield f"![time against length]({picture.resolve().relative_to(page.resolve().parent).as_posix()})"
    yield from _benchmark_table(path)


def _bench(path: Path, page: Path) -> Iterator[str]:
    yield "## Case by case"
    yield ""
    yield from _source(path)
    yield from _benchmark_table(path)


def _benchmark_table(path: Path) -> Iterator[str]:
    from cofm_triton.evidence.benchmark import table
    from cofm_triton.evidence.benchmark.peers import peers
    from cofm_triton.evidence.benchmark.results import read

    results, _ = read(path)
    yield from _block(table.lines(results, [peer.name for peer in peers() if not peer.same_work]))


def _validation(path: Path, page: Path) -> Iterator[str]:
    from cofm_triton.evidence.validation.check import Outcome
    from cofm_triton.evidence.validation.report import lines

    yield "## Errors against the definitions"
    yield ""
    yield from _source(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    outcomes = [{k: v for k, v in entry.items() if k != "missed"} for entry in content["outcomes"]]
    yield from _block(lines([Outcome.from_dict(entry) for entry in outcomes]))


def _kernels(path: Path, page: Path) -> Iterator[str]:
    from cofm_triton.evidence.compilation import baseline, report

    yield "## What the compiler makes of the kernels"
    yield ""
    yield from _source(path)
    yield ""
    yield "Compiled ahead of time, run nowhere. The last column is a model."
    triton, compiled = baseline.read(path)
    yield from _block([f"triton {triton}", *report.lines(list(compiled.values()))])


def _source(path: Path) -> Iterator[str]:
    yield f"`{path.name}`: {machine.caption(_machine(path))}"


def _machine(path: Path) -> dict[str, Any]:
    where: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["machine"]
    return where


def _block(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """Lines as they are, in a fence."""
    yield ""
    yield "```"
    yield from lines
    yield "```"
