"""The table of host times: a process with a stub for a GPU measures them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cofm_triton.evidence.benchmark.contract import FORWARD, FORWARD_BACKWARD
from cofm_triton.evidence.host import FLOOR, ROUNDS
from cofm_triton.evidence.host.stub_driver import ENVIRONMENT
from cofm_triton.ops.backends import INSTALLED

LEGEND = (
    "Host time of an eager call on a GPU, us, smallest (median), measured without one: Triton's binder, caches and C",
    "launcher run on a CUDA library that does nothing, tensors are on the CPU. Launches: by Triton + by PyTorch, whose",
    "operations run here. floor: an autograd.Function with one launch of six arguments each way; x floor: both passes.",
)


def unavailable() -> str | None:
    """Why host times cannot be measured here; None when they can."""
    if not INSTALLED["triton"]:
        return "needs triton, which has wheels for Linux only"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "needs a C compiler"
    return None


def measured(chosen: str = "", rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Rows of `measure`, from a process of its own.

    Args:
        chosen: part of the names of calls.
        rounds: timed calls of each.

    Raises:
        RuntimeError: the process failed; its last words.
    """
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "cofm_triton.evidence.host.measure", chosen, str(rounds)]
    done = subprocess.run(command, env=clean | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"host times could not be measured:\n{done.stderr[-2000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table."""
    calls: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        calls.setdefault((row["name"], "x".join(map(str, row["shape"]))), {})[row.get("pass_name", "")] = row
    floor = next((both[FORWARD_BACKWARD]["min"] for (name, _), both in calls.items() if name == FLOOR), None)
    yield f"{'host, us':36}{'B x T x D':>14}{'forward':>16}{'forward + backward':>20}{'launches':>10}{'x floor':>9}"
    for (name, shape), both in calls.items():
        if FORWARD_BACKWARD not in both:
            yield f"{name:36}{shape:>14}  left out: {both['']['left_out']}"
            continue
        first, full = both[FORWARD], both[FORWARD_BACKWARD]
        share = "" if floor is None else f"{full['min'] / floor:.2f}"
        counts = f"{full['launches']} + {full['operations']}"
        yield f"{name:36}{shape:>14}{_time(first):>16}{_time(full):>20}{counts:>10}{share:>9}"
    yield ""
    yield from LEGEND


def _time(row: dict[str, Any]) -> str:
    return f"{1e6 * row['min']:.0f} ({1e6 * row['median']:.0f})"
