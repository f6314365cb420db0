"""The page of results, `bench/RESULTS.md`: everything on it comes from the JSON files beside it.

They are `scaling.json` (from `cofm bench --out bench/results`), `bench.json` (`make bench`), `validate.json`
(`cofm validate --out bench/results`), `kernels.json` (`cofm kernels --write-baseline`), and a `gpu-NAME.json` for every
GPU on which `make gpu` ran.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cofm_triton.evidence import machine, published
from cofm_triton.evidence.benchmark import table
from cofm_triton.evidence.benchmark.peers import peers
from cofm_triton.evidence.benchmark.results import read
from cofm_triton.evidence.compilation import baseline, report
from cofm_triton.evidence.validation import report as validation
from cofm_triton.evidence.validation.check import Outcome
from cofm_triton.support.files import write_text

FOLDER = Path("bench", "results")
PAGE = Path("bench", "RESULTS.md")
SCALING, BENCH, VALIDATE, KERNELS = "scaling.json", "bench.json", "validate.json", "kernels.json"
GPUS = "gpu-*.json"


def write_page(folder: Path, page: Path) -> Path:
    """Write the page from the files that are there, and return its path.

    Args:
        folder: of the JSON files.
        page: the file to write.

    Raises:
        FileNotFoundError: the folder holds none of the files.
    """
    found = [name for name in (SCALING, BENCH, VALIDATE, KERNELS) if (folder / name).is_file()]
    gpus = sorted(folder.glob(GPUS))
    if not found and not gpus:
        raise FileNotFoundError(f"{folder} holds none of {SCALING}, {BENCH}, {VALIDATE}, {KERNELS}")
    write_text(page, "\n".join(_page(folder, page, found, gpus)) + "\n")
    return page


def _page(folder: Path, page: Path, found: Sequence[str], gpus: Sequence[Path]) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield "Written by `make results` from the files in `bench/results/`; not to be edited."
    measured = [_machine(path) for path in (*(folder / name for name in (SCALING, BENCH) if name in found), *gpus)]
    if not any(where["device_type"] == "cuda" for where in measured):
        yield ""
        yield "**Nothing here was measured on a GPU.** Times are of the CPU path; what is said of GPUs is read off the"
        yield "compiled code."
    for path in gpus:
        yield ""
        yield from _gpu(path, page)
    yield ""
    yield from _published(gpus)
    sections = {SCALING: _scaling, BENCH: _bench, VALIDATE: _validation, KERNELS: _kernels}
    for name in found:
        yield ""
        yield from sections[name](folder / name, page)


def _scaling(path: Path, page: Path) -> Iterator[str]:
    yield "## Time against the length of a sequence"
    yield ""
    yield from _source(path)
    yield from _picture(path, page)
    yield from _benchmark_table(path)


def _picture(path: Path, page: Path) -> Iterator[str]:
    """The figure beside a file of times, if there is one."""
    picture = path.with_suffix(".png")
    if picture.is_file():
        yield ""
        yield f"![time against length]({picture.resolve().relative_to(page.resolve().parent).as_posix()})"


def _gpu(path: Path, page: Path) -> Iterator[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    calls, missed = content["validation"]["cases"], content["validation"]["missed"]
    yield f"## {content['machine']['device']}"
    yield ""
    yield from _source(path)
    yield ""
    yield f"A copy moves {content['copy_bytes_per_second'] / 1e12:.2f} TB/s. Of {calls} calls validated there,"
    yield f"{len(missed)} missed their bound; the tests marked `gpu` {_tests(content['tests_exit_status'])}."
    if missed:
        yield from _block(missed)
    yield from _picture(path, page)
    yield from _benchmark_table(path)


def _tests(status: int) -> str:
    return "passed" if status == 0 else f"ended with status {status}"


def _published(gpus: Sequence[Path]) -> Iterator[str]:
    yield "## What others publish for a GPU"
    yield ""
    yield "A gated scan in float32 at (B, T, D) = (8, T, 1536). Published times are quoted, from the"
    yield f"{published.SOURCE}."
    yield "TB/s: bytes by our traffic model (12 forward, 32 forward + backward, per number) over time; the mark is"
    yield f"{published.MARK / 1e12:.2f}. " + (
        "" if gpus else "Ours comes here with `make gpu`, on a machine with a GPU."
    )
    yield ""
    yield from published.lines([(_machine(path)["device"], read(path)[0].records) for path in gpus])


def _bench(path: Path, page: Path) -> Iterator[str]:
    yield "## Case by case"
    yield ""
    yield from _source(path)
    yield from _benchmark_table(path)


def _benchmark_table(path: Path) -> Iterator[str]:
    results, _ = read(path)
    yield from _block(table.lines(results, [peer.name for peer in peers() if not peer.same_work]))


def _validation(path: Path, page: Path) -> Iterator[str]:
    yield "## Errors against the definitions"
    yield ""
    yield from _source(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    outcomes = [{k: v for k, v in entry.items() if k != "missed"} for entry in content["outcomes"]]
    yield from _block(validation.lines([Outcome.from_dict(entry) for entry in outcomes]))


def _kernels(path: Path, page: Path) -> Iterator[str]:
    yield "## What the compiler makes of the kernels"
    yield ""
    yield from _source(path)
    yield ""
    yield "Compiled ahead of time, run nowhere. The last column is a model."
    triton, compiled = baseline.read(path)
    yield from _block([f"triton {triton}", *report.lines(baseline.usual(compiled.values()))])


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
