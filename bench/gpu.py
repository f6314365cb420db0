"""Everything that a GPU has to tell, in one command; about eight minutes, by count.

    make gpu                              # sets up .venv first
    python bench/gpu.py                   # with a Python that has a CUDA build of PyTorch and this package

It validates every operator on the GPU, runs the tests marked `gpu` beside that, times the copy of a large tensor, the
shapes that others publish (`evidence/published.py`) and `cofm bench --preset quick`, with the peers that are installed.
It writes `bench/results/gpu-NAME.json` and `.png`, and `bench/RESULTS.md` anew.

Exit status: 0 done; 1 done, and a result or a test is wrong, as the file says; 3 there is no GPU, and nothing is done.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cofm_triton.evidence import published
from cofm_triton.evidence.benchmark.measure import Turns, gpu_seconds
from cofm_triton.evidence.benchmark.results import OURS, Results, record
from cofm_triton.evidence.registry import benchmarks
from cofm_triton.evidence.results_page import FOLDER, PAGE, write_page
from cofm_triton.support.files import atomic_path, write_text

ROOT = Path(__file__).parents[1]
NO_GPU = 3
COPY_BYTES = 2**30
TENSORS = 8  # as large as x, that a training step of a gated scan and its reference copy take

Command = Sequence[str]


def commands(out: Path) -> tuple[list[Command], Command]:
    """What validates and tests, side by side, and what then measures alone.

    Args:
        out: folder of their results.
    """
    cofm = [sys.executable, "-m", "cofm_triton"]
    options = ["--device", "cuda", "--quiet", "--out", str(out)]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    return [[*cofm, "validate", *options], tests], [*cofm, "bench", "--preset", "quick", *options]


def run_together(chosen: Sequence[Command]) -> list[int]:
    """Exit statuses of commands that run side by side, in the checkout."""
    running = [subprocess.Popen(command, cwd=ROOT) for command in chosen]
    return [process.wait() for process in running]


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of `y.copy_(x)`: a GiB, or an eighth of the free memory."""
    size = min(COPY_BYTES, torch.cuda.mem_get_info(device)[0] // 8) // 4
    source, target = (torch.empty(size, device=device) for _ in range(2))
    return 2 * source.nbytes / gpu_seconds(lambda: target.copy_(source))


def published_shapes(device: torch.device) -> Results:
    """Ours at the shapes that others publish; a shape that does not fit the memory is left out."""
    results, entry = Results(), benchmarks()[published.OPERATOR]
    for case in published.cases():
        batch, steps, channels = case.shape
        needed = TENSORS * batch * steps * channels * case.dtype.itemsize
        if needed > torch.cuda.mem_get_info(device)[0]:
            results.leave_out(OURS, case.operator, f"{case.size}: needs {needed / 2**30:.0f} GiB of free memory")
            continue
        problem = entry.draw(case, device)
        target = torch.empty_like(problem.x)
        for name, run in entry.ours(problem).passes().items():
            turns = Turns(partial(target.copy_, problem.x), run, device)
            turns.take(0.5, min_rounds=3)
            results.records.append(record(case, name, OURS, turns, entry.bytes_moved(case, name), 2 * target.nbytes))
    return results


def merged(out: Path, more: Results, **facts: Any) -> dict[str, Any]:
    """The content of the GPU's file: that of `scaling.json`, with all that was found beside it.

    Args:
        out: folder with `scaling.json` and `validate.json`.
        more: the published shapes.
        facts: further entries.
    """
    content: dict[str, Any] = json.loads((out / "scaling.json").read_text(encoding="utf-8"))
    more.write(out / "published.json", content["machine"], smoke=False)
    added = json.loads((out / "published.json").read_text(encoding="utf-8"))
    outcomes = json.loads((out / "validate.json").read_text(encoding="utf-8"))["outcomes"]
    for key in ("records", "left_out"):
        content[key] += added[key]
    missed = [f"{entry['case']}:{entry['place']}" for entry in outcomes if entry["missed"]]
    return {**content, **facts, "validation": {"cases": len(outcomes), "missed": missed}}


def file_name(gpu: str) -> str:
    """`gpu-nvidia-h100-80gb-hbm3` for what PyTorch calls the device.

    Example:
        >>> file_name("NVIDIA H100 80GB HBM3")
        'gpu-nvidia-h100-80gb-hbm3'
    """
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def main(folder: Path = ROOT / FOLDER, page: Path = ROOT / PAGE) -> int:
    """Run everything and write the files; returns the exit status.

    Args:
        folder: of the results.
        page: to write anew.
    """
    if not torch.cuda.is_available():
        print(f"bench/gpu.py: torch {torch.__version__} finds no GPU here, so nothing was run.", file=sys.stderr)
        return NO_GPU
    device, seconds = torch.device("cuda", torch.cuda.current_device()), {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        checks, benchmark = commands(out)
        start = time.perf_counter()
        validated, tested = run_together(checks)
        seconds["validation and tests"] = time.perf_counter() - start
        rate, shapes = copy_bandwidth(device), published_shapes(device)
        torch.cuda.empty_cache()  # what follows is another process
        (measured,) = run_together([benchmark])
        seconds["all"] = time.perf_counter() - start
        if measured or not (out / "validate.json").is_file():
            print("bench/gpu.py: a command above failed, so nothing was written.", file=sys.stderr)
            return 1
        facts = {"copy_bytes_per_second": rate, "tests_exit_status": tested, "wall_seconds": seconds}
        name = file_name(torch.cuda.get_device_name(device))
        write_text(folder / f"{name}.json", json.dumps(merged(out, shapes, **facts), indent=1) + "\n")
        with atomic_path(folder / f"{name}.png") as part:
            shutil.copyfile(out / "scaling.png", part)
    print(f"Results: {folder / name}.json, {write_page(folder, page)}; {seconds['all']:.0f} s")
    return 1 if validated or tested else 0


if __name__ == "__main__":
    sys.exit(main())
