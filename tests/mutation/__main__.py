"""Break the library in small ways, one at a time, and see whether the tests that mirror the broken file notice.

    make mutants ARGS="cofm_triton/cpu/jit/rnn_scan.py --most 20"

Without files, all that computes is broken: kernels and the CPU's compiled and blocked paths. Every mutant runs in a
copy of the checkout. A survivor is a fault that no test would have found, or changes nothing that can be seen: then
`equivalent.py` says why. Exit status 1: there are others.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mutation.equivalent import EQUIVALENT
from mutation.mutants import Mutant, mutants
from mutation.trial import Trial, load

from cofm_triton.evidence.registry import validations

ROOT = Path(__file__).parents[2]
PARTS = ("cofm_triton/kernels", "cofm_triton/cpu/jit", "cofm_triton/cpu/blocked")
# Where the tests of a part are, the quickest first.
TESTS = {"kernels": ("kernels", "ops"), "jit": ("cpu", "ops"), "blocked": ("ops", "cpu")}
# Whose tests see what has none of its own, or not all.
SEEN_BY = {
    "bfloat16": ["bfloat16", "vectors", "dense_rnn"], "bits": ["activation", "gates"],
    "blocks": ["perturbation_gradient", "perturbation", "rnn_readout"], "by_name": ["nonlinearity"],
    "forward": ["linear_scan", "chains"], "gates": ["gated_rnn", "gates"], "interleaved": ["linear_scan"],
    "launches": ["launch"], "product": ["dense_rnn"], "region": ["threads"], "rnn_scan": ["rnn_scan", "chains"],
    "rows": ["rows", "paired_rnn_scan", "linear_scan"],
}  # fmt: skip
# Shapes, dtypes and strides of the functions that users call.
FUNCTIONS, SCANS = "tests/test_functional.py", ("linear_scan", "rnn_scan")
# What sees a fault in any file of a part: offsets that would need tensors of 2 GB.
ALWAYS = {"kernels": ["tests/kernels/test_offsets.py"]}
# Accesses outside of arrays: seen last, because it takes its time, and for the file's own operator where it has one.
MEMORY = "tests/test_memory_safety.py"
BACKENDS = {"kernels": "triton", "jit": "numba", "blocked": "torch"}  # those of the others cannot see it
COPIED = ("cofm_triton", "reference", "tests", "bench", "docs", "pyproject.toml", "README.md")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="files to break (default: all that computes)")
    parser.add_argument("--most", type=int, default=10, help="mutants of a file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: %(default)s)")
    parser.add_argument("--match", default="", help="only mutants with these words in their line")
    parser.add_argument("--tests", nargs="+", help="tests to run (default: those of the file's name)")
    arguments = parser.parse_args(words)
    files = arguments.files or [
        str(path.relative_to(ROOT)) for part in PARTS for path in sorted((ROOT / part).glob("*.py"))
    ]
    table = ["| file | broken | died | equivalent | survived |", "| --- | --- | --- | --- | --- |"]
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        load(copy / "numba")
        for file in files:
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


def _outcomes(copy: Path, file: str, text: str, chosen: Sequence[Mutant], tests: Sequence[str] | None) -> Iterator[str]:
    """What becomes of each mutant, a line printed for each: see `Trial.outcome`."""
    tests = tests or mirrors(file)
    if chosen and not tests:
        print(f"{file}: no tests of its name", flush=True)
        yield "untested"
        return
    trial = Trial(copy, file, text, tests)
    for mutant in chosen:
        outcome = trial.outcome(mutant, argued=(file, mutant.name) in EQUIVALENT)
        print(f"{outcome:10} {file}:{mutant.line} {mutant.kind}: {mutant.name}", flush=True)
        yield outcome


def spread(chosen: Sequence[Mutant], most: int, seed: int) -> list[Mutant]:
    """Some mutants, of as many kinds as there are: one of each kind, then a second of each, and so on."""
    kinds = defaultdict(list)
    for mutant in random.Random(seed).sample(chosen, len(chosen)):
        kinds[mutant.kind].append(mutant)
    turns = [some[turn] for turn in range(len(chosen)) for _, some in sorted(kinds.items()) if turn < len(some)]
    return turns[:most]


def mirrors(file: str) -> list[str]:
    """Tests of the file's name, or, where a file is one piece of an operator, of the operator's; for pytest."""
    path = Path(file)
    part, stems = path.parent.name, SEEN_BY.get(path.stem, [path.stem])
    found = [test for folder in TESTS.get(part, ("",)) for stem in stems for test in _of_name(folder, stem)]
    if not found:
        return []
    functions = (
        [FUNCTIONS] if any((stem + "_").startswith(tuple(name + "_" for name in SCANS)) for stem in stems) else []
    )
    others = [name for name in BACKENDS.values() if part in BACKENDS and name != BACKENDS[part]]
    others = [f"not {left}{name}{right}" for name in others for left in "[-" for right in "]-"]  # in a test's brackets
    memory = _memory(stems[0], BACKENDS.get(part))
    return [*ALWAYS.get(part, ()), *found, *functions, memory, *(["-k", " and ".join(others)] if others else [])]


def _of_name(folder: str, stem: str) -> list[str]:
    """The tests of the longest beginning of the name, and those of longer names."""
    names = {
        test.stem.removeprefix("test_"): str(test.relative_to(ROOT))
        for test in (ROOT / "tests" / folder).glob("test_*.py")
    }
    wholes = [name for name in names if (stem + "_").startswith(name + "_")]
    longer = sorted(name for name in names if name.startswith(stem + "_"))
    return [names[name] for name in [*sorted(wholes, key=len)[-1:], *longer]]


def _memory(stem: str, backend: str | None) -> str:
    if stem in ("activation_gradient", "mode_coefficients"):  # which are kernels of layers, not operators
        return f"{MEMORY}::test_layers_stay_inside"
    owners = [name for name in validations() if (stem + "_").startswith(name + "_")]
    if not owners or backend is None:
        return MEMORY
    return f"{MEMORY}::test_nothing_outside_and_all_inside[{backend}-{max(owners, key=len)}]"


def _copied(folder: Path) -> Path:
    """A checkout to break."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
