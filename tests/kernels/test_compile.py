"""Every kernel compiles for every GPU we name, without a register spill, and no worse than before. Needs no GPU.

What is checked are the usual configurations for every GPU, and each of the others for one GPU of one make. The file of
the baseline has what the compiler made of each, beside the hash by which Triton tells compiled kernels apart. Only what
has another hash today is compiled, and a sample of the rest, to see that the file tells the truth. The file is of one
release of Triton; with another one nothing is compiled here: its machine code is no fault of the kernels, and
docs/versions.md says how it differs. `cofm kernels --all` compiles everything for every GPU.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("triton")

from cofm_triton import kernels
from cofm_triton.evidence.compilation import baseline
from cofm_triton.evidence.compilation.launches import Options, label
from cofm_triton.evidence.compilation.offline import TARGETS, Compiled
from cofm_triton.evidence.compilation.run import MAKES, Task, compile_all, kept_tasks, turn
from cofm_triton.evidence.registry import compilations

BASELINE = Path(__file__).parents[2] / "bench" / "results" / "kernels.json"
SOURCES = sorted(Path(kernels.__path__[0]).glob("*.py"))


def operator_of(stem: str) -> str:
    """`linear_scan` for the file `linear_scan_forward`."""
    return max((name for name in compilations() if stem == name or stem.startswith(name + "_")), key=len, default=stem)


def kernels_of(operator: str) -> set[str]:
    """The kernels in the files of an operator."""
    texts = [path.read_text() for path in SOURCES if operator_of(path.stem) == operator]
    return {name for text in texts for name in re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE)}


KERNELS = {name: kernels_of(name) for name in dict.fromkeys(operator_of(path.stem) for path in SOURCES)}

# The most instructions per element of the loop along time on sm_90, whatever the last version took.
BUDGETS = {
    ("linear_scan_forward_kernel", "float32"): 10,
    ("linear_scan_forward_kernel", "bfloat16"): 12,
    ("linear_scan_backward_kernel", "float32"): 14,
    ("linear_scan_backward_kernel", "bfloat16"): 18,
    # In segments every row is walked twice, and ends are exchanged: a third of what memory leaves time for.
    ("linear_scan_forward_kernel", "float32 num_sms=132"): 14,
    ("linear_scan_backward_kernel", "float32 num_sms=132"): 19,
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


def test_every_configuration_has_its_turn() -> None:
    configurations: list[Options] = [dict(width=width) for width in range(7)]
    turns = [option["width"] for target in TARGETS for option in turn(configurations, target, TARGETS)]
    assert sorted(turns) == list(range(7)) != turns


def test_configurations_have_labels_of_their_own() -> None:
    """What has another's label would be compared with the other's numbers."""
    for operator in compilations().values():
        labels = [label(options) for options in operator.configurations(everything=True)]
        assert len(set(labels)) == len(labels)


def compiled(tasks: Sequence[Task], known: Sequence[Compiled]) -> list[Compiled]:
    return compile_all(tasks, lambda done, total: None, processes=1, known=known)


def kept() -> dict[tuple[str, str], Compiled]:
    """What the baseline has, by target and key."""
    triton, known = baseline.read(BASELINE)
    if triton != version("triton"):
        pytest.skip(f"the baseline is Triton {triton}'s: `cofm kernels` shows what this one makes of the kernels")
    return known


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_without_a_spill_and_no_worse_than_before(target: str) -> None:
    """`cofm kernels --write-baseline` accepts new numbers, after somebody has looked at them."""
    known = kept()
    entries = compiled(kept_tasks((target,), tuple(compilations())), tuple(known.values()))
    spilled = [entry for entry in entries if entry.spilled]
    assert not spilled, "\n".join(map(str, spilled))
    assert not list(baseline.worse(entries, BASELINE))
    strange = [entry.key for entry in entries if (entry.target, entry.key) not in known]
    assert not strange, "the file is of another kernel: cofm kernels --write-baseline"
    scans = [entry for entry in entries if entry.operator in DIAGONAL]  # a read-out sums over lanes
    assert not [entry.key for entry in scans if entry.constants.get("PAIRED") and "shuffle" in entry.instructions]
    if target in MAKES:
        assert {entry.kernel for entry in entries} == set().union(*KERNELS.values())
    if target == "sm_90":
        assert not list(over_budget(entries))


@pytest.mark.slow
@pytest.mark.parametrize("target", MAKES)
def test_the_baseline_is_what_the_compiler_makes(target: str) -> None:
    tasks = [Task(target, name, part.usual[0]) for name, part in compilations().items()]
    tasks = tasks[MAKES.index(target) :: len(MAKES)]
    known = kept()
    entries = compiled(tasks, ())
    same = [(entry, known.get((target, entry.key))) for entry in entries]
    changed = [entry.key for entry, before in same if before is None or before.hash != entry.hash]
    assert not changed, "the file is of other kernels: cofm kernels --write-baseline"
    assert all(entry == before for entry, before in same)


def test_every_kernel_is_one_of_an_operator() -> None:
    assert {name for name, kernels in KERNELS.items() if kernels} == set(compilations())


def over_budget(entries: Sequence[Compiled]) -> Iterator[str]:
    """What takes more than `BUDGETS`, and diagonal recurrences whose lanes talk in every step, a line each.

    Segments of time have to talk, once in a tile.
    """
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
        if entry.constants.get("SEGMENTS", 1) > 1:
            talk -= {"shuffle", "sync", "shared"}
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
