"""Every kernel compiles for every GPU we name, without a register spill, and no worse than before. Needs no GPU.

Every configuration is compiled for one GPU of each make, the usual ones for the others: `cofm kernels --all` does all.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("triton")

from cofm_triton import kernels
from cofm_triton.evidence.compilation import baseline
from cofm_triton.evidence.compilation.launches import operators
from cofm_triton.evidence.compilation.offline import TARGETS, Compiled
from cofm_triton.evidence.compilation.run import compile_all

EVERYTHING = ("sm_90", "gfx942")
# Operators compiled by one test: two processes share the tests, and none should wait long for the last one.
SHARES = (("linear_scan",), ("rnn_scan",), tuple(sorted(operators().keys() - {"linear_scan", "rnn_scan"})))
BASELINE = Path(__file__).parents[2] / "bench" / "results" / "kernels.json"
SOURCES = sorted(Path(kernels.__path__[0]).glob("*.py"))
KERNELS = {
    path.stem: {
        name
        for line in path.read_text().splitlines()
        if line.startswith("def ") and (name := line[4:].partition("(")[0]).endswith("_kernel")
    }
    for path in SOURCES
}

# The most instructions per element of the loop along time on sm_90, whatever the last version took.
BUDGETS = {
    ("linear_scan_forward_kernel", "float32"): 10,
    ("linear_scan_forward_kernel", "bfloat16"): 12,
    ("linear_scan_backward_kernel", "float32"): 14,
    ("linear_scan_backward_kernel", "bfloat16"): 18,
    ("rnn_scan_forward_kernel", "float32 hardtanh"): 13,
    ("rnn_scan_forward_kernel", "float32 relu"): 13,
    ("rnn_scan_forward_kernel", "float32 tanh"): 24,
    # Of pairs: at most half as many again as of units.
    ("rnn_scan_forward_kernel", "float32 hardtanh paired"): 7,
    ("rnn_scan_backward_kernel", "float32 hardtanh paired"): 18,
    ("rnn_scan_forward_kernel", "bfloat16 hardtanh paired"): 11,
    ("rnn_scan_backward_kernel", "bfloat16 hardtanh paired"): 24,
    ("rnn_scan_forward_kernel", "float32 tanh paired"): 26,
}
DIAGONAL = {"linear_scan", "rnn_scan"}
TALK = {"shuffle", "sync", "shared", "local"}  # between lanes or warps, and what takes its way through memory


def compiled(target: str, share: Sequence[str], everything: bool) -> list[Compiled]:
    try:
        return compile_all([target], share, lambda done, total: None, everything=everything, processes=1)
    except Exception as error:
        if target.startswith("gfx") and "ld.lld" in str(error):
            pytest.skip("this Triton comes without the linker for AMD GPUs")
        raise


def check(entries: Sequence[Compiled]) -> None:
    """`cofm kernels --write-baseline` accepts new numbers, after somebody has looked at them."""
    spilled = [entry for entry in entries if entry.spilled]
    assert not spilled, "\n".join(map(str, spilled))
    assert not list(baseline.worse(entries, BASELINE))


@pytest.mark.parametrize("share", SHARES, ids="-".join)
@pytest.mark.parametrize("target", EVERYTHING)
def test_every_kernel_compiles_without_a_spill_and_no_worse_than_before(target: str, share: Sequence[str]) -> None:
    entries = compiled(target, share, everything=True)
    assert {entry.kernel for entry in entries} == set().union(*(KERNELS[name] for name in share))
    check(entries)
    assert not [entry.key for entry in entries if entry.constants.get("PAIRED") and "shuffle" in entry.instructions]
    if target == "sm_90":
        assert not list(over_budget(entries))


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in EVERYTHING])
def test_usual_kernels_compile_without_a_spill_and_no_worse_than_before(target: str) -> None:
    check(compiled(target, tuple(operators()), everything=False))


def test_every_kernel_is_one_of_an_operator() -> None:
    assert {name for name, kernels in KERNELS.items() if kernels} == set(operators())


def over_budget(entries: Sequence[Compiled]) -> Iterator[str]:
    """What takes more than `BUDGETS`, and diagonal recurrences whose lanes talk in every step, a line each."""
    totals = {(entry.kernel, entry.configuration): entry.total for entry in entries}
    kernels = {entry.kernel for entry in entries}
    for key, most in BUDGETS.items():
        if key[0] not in kernels:
            continue
        total = totals.get(key)
        if total is None or total > most:
            yield f"{' '.join(key)}: {total} instructions per element, at most {most}"
    for entry in entries:
        talk = TALK & entry.instructions.keys()
        if talk and entry.operator in DIAGONAL:
            yield f"{entry.key}: {', '.join(sorted(talk))} in the loop along time"


def test_budgets_are_read_off_what_was_compiled() -> None:
    entries = [
        Compiled("sm_90", kernel[: kernel.index("scan") + 4], kernel, name, {}, 64, 0, 0, {"float": float(most)})
        for (kernel, name), most in BUDGETS.items()
    ]
    assert not list(over_budget(entries))
    (missing,) = over_budget(entries[1:])
    assert missing == "linear_scan_forward_kernel float32: None instructions per element, at most 10"
    entries[0].instructions.update({"shuffle": 0.1})
    more, talk = over_budget(entries)
    assert more.startswith("linear_scan_forward_kernel float32: 10.1 ")
    assert talk.endswith("shuffle in the loop along time")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_kernel_adds_atomically(path: Path) -> None:
    """The order of such sums, and with it their last bits, would be another one in every run."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not [name for name in names if name.startswith("atomic")]
