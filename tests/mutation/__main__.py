"""Break the library in small ways, one at a time, and see whether the tests that mirror the broken file notice.

    make mutants ARGS="cofm_triton/cpu/jit/rnn_scan.py --most 20"

Without files, all that computes is broken: kernels and the CPU's compiled and blocked paths. Every mutant runs in a
copy of the checkout. A survivor is a fault that no test would have found, or changes nothing that can be seen: then
`equivalent.py` says why. Exit status 1: there are others.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mutation.equivalent import EQUIVALENT
from mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
PARTS = ("cofm_triton/kernels", "cofm_triton/cpu/jit", "cofm_triton/cpu/blocked")
# Where the tests of a part are, the quickest first.
TESTS = {"kernels": ("kernels", "ops"), "jit": ("cpu", "ops"), "blocked": ("ops", "cpu")}
# Whose tests see what has none of its own.
SEEN_BY = {
    "bits": "activation", "blocks": "rnn_readout", "by_name": "nonlinearity", "forward": "linear_scan",
    "gates": "gated_rnn", "interleaved": "linear_scan", "launches": "launch", "product": "dense_rnn",
    "region": "threads",
}  # fmt: skip
# What sees a fault in any file of a part: offsets that would need tensors of 2 GB, and, last because it takes a
# minute, accesses outside of arrays.
FIRST = {"kernels": ["tests/kernels/test_offsets.py"]}
LAST = ["tests/test_memory_safety.py"]
COPIED = ("cofm_triton", "reference", "tests", "bench", "docs", "pyproject.toml", "README.md")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="files to break (default: all that computes)")
    parser.add_argument("--most", type=int, default=10, help="mutants of a file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: %(default)s)")
    parser.add_argument("--match", default="", help="only mutants with these words in their line")
    parser.add_argument("--tests", nargs="+", help="tests to run (default: those of the file's name)")
    arguments = parser.parse_args(words)
    files = arguments.files or [str(path.relative_to(ROOT)) for part in PARTS for path in (ROOT / part).glob("*.py")]
    table = ["| file | broken | died | equivalent | survived |", "| --- | --- | --- | --- | --- |"]
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        for file in sorted(files):
            text = (ROOT / file).read_text()
            chosen = [mutant for mutant in mutants(text) if arguments.match in f"{mutant.name} {mutant.kind}"]
            trials = _outcomes(copy, file, text, spread(chosen, arguments.most, arguments.seed), arguments.tests)
            found = Counter(trials)
            counts = found.total(), found["killed"] + found["timed out"], found["equivalent"]
            table.append(f"| `{file}` | {' | '.join(map(str, counts))} | {found['survived']} |")
            left += found["survived"] + found["untested"]
    print(*table, sep="\n")
    print(f"{left} survivors without an argument")
    return 1 if left else 0


def _outcomes(copy: Path, file: str, text: str, chosen: Iterable[Mutant], tests: Sequence[str] | None) -> Iterator[str]:
    """What becomes of each mutant, a line printed for each: as `Trial.outcome`, or "equivalent"."""
    tests = tests or mirrors(file)
    if not tests:
        print(f"{file}: no tests of its name", flush=True)
        yield "untested"
        return
    trial = Trial(copy, file, text, tests)
    for mutant in chosen:
        outcome = trial.outcome(mutant)
        if outcome == "survived" and (file, mutant.name) in EQUIVALENT:
            outcome = "equivalent"
        print(f"{outcome:10} {file}:{mutant.line} {mutant.kind}: {mutant.name}", flush=True)
        yield outcome


class Trial:
    """The tests of a file: first a slice, in which most mutants die, then all of them.

    Args:
        copy: the checkout that is broken.
        file: the file that is.
        text: what it is when whole.
        tests: files of tests.
    """

    def __init__(self, copy: Path, file: str, text: str, tests: Sequence[str]) -> None:
        self._copy, self._path, self._text = copy, copy / file, text
        self._slices = ((*tests, "--quick"), tuple(tests))
        self._limits: dict[tuple[str, ...], float] = {}

    def outcome(self, mutant: Mutant) -> str:
        """What becomes of a mutant: "killed", "timed out", "survived", or "untested": the tests fail as it is."""
        found = "survived"
        for tests in self._slices:
            if found == "survived" and (found := self._take_time(tests)) == "survived":
                self._path.write_text(mutant.text)
                found = _run(self._copy, tests, self._limits[tests])
                self._path.write_text(self._text)
        return found

    def _take_time(self, tests: tuple[str, ...]) -> str:
        """What becomes of the whole file; once, to know how long the tests take."""
        if tests not in self._limits:
            begin = time.monotonic()
            if _run(self._copy, tests, None) != "survived":
                return "untested"
            self._limits[tests] = 60 + 3 * (time.monotonic() - begin)
        return "survived"


def spread(chosen: Sequence[Mutant], most: int, seed: int) -> list[Mutant]:
    """Some mutants, of as many kinds as there are: one of each kind, then a second of each, and so on."""
    kinds = defaultdict(list)
    for mutant in random.Random(seed).sample(chosen, len(chosen)):
        kinds[mutant.kind].append(mutant)
    turns = [some[turn] for turn in range(len(chosen)) for _, some in sorted(kinds.items()) if turn < len(some)]
    return turns[:most]


def mirrors(file: str) -> list[str]:
    """Tests of the file's name, or, where a file is one piece of an operator, of the operator's."""
    path, found = Path(file), []
    stem = SEEN_BY.get(path.stem, path.stem)
    for folder in TESTS.get(path.parent.name, ("",)):
        names = [test for test in sorted((ROOT / "tests" / folder).glob("test_*.py"))
                 if (stem + "_").startswith(test.stem.removeprefix("test_") + "_")]  # fmt: skip
        found += [str(max(names, key=lambda test: len(test.stem)).relative_to(ROOT))] if names else []
    return [*FIRST.get(path.parent.name, ()), *found, *LAST] if found else []


def _copied(folder: Path) -> Path:
    """A checkout to break."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _run(copy: Path, tests: Sequence[str], limit: float | None) -> str:
    """What becomes of a broken copy: "killed", "timed out" or "survived"."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / "numba")}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "timed out"
    return "survived" if done.returncode == 0 else "killed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
