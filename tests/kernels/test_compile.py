"""Every kernel compiles for every GPU we name, without a register spill, and no worse than before. Needs no GPU.

The usual configurations are compiled for one GPU of each make. Of the others, as many as hold every pair of options
(with --every-case: all) are shared out between these two GPUs, and the usual ones once more between the rest.
`cofm kernels --all` compiles all of them for every GPU.
"""

import ast
import random
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("triton")

from selection import covering

from cofm_triton import kernels
from cofm_triton.evidence.compilation import baseline
from cofm_triton.evidence.compilation.launches import Options, label
from cofm_triton.evidence.compilation.offline import TARGETS, Compiled
from cofm_triton.evidence.compilation.run import Task, compile_all
from cofm_triton.evidence.operator import Compilation
from cofm_triton.evidence.registry import compilations

MAKES = ("sm_90", "gfx942")
REST = tuple(target for target in TARGETS if target not in MAKES)
# Operators compiled by one test: two processes share the tests, and none should wait long for the last one.
SHARES = (("linear_scan",), ("rnn_scan",), tuple(sorted(compilations().keys() - {"linear_scan", "rnn_scan"})))
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


def turn(configurations: Sequence[Options], target: str, targets: Sequence[str]) -> list[Options]:
    """What falls to a target when several take turns, in an order without a pattern."""
    shuffled = random.Random(0).sample(configurations, len(configurations))
    return shuffled[targets.index(target) :: len(targets)]


def unusual(operator: Compilation, everything: bool) -> list[Options]:
    """Configurations beyond the usual ones."""
    if everything:
        return list(operator.others)
    options = operator.configurations(everything=True)
    names = sorted(set().union(*options))
    kept = covering([{name: option.get(name) for name in names} for option in options])
    return [options[position] for position in kept if position >= len(operator.usual)]


def test_every_configuration_has_its_turn() -> None:
    configurations: list[Options] = [dict(width=width) for width in range(7)]
    turns = [option["width"] for target in TARGETS for option in turn(configurations, target, TARGETS)]
    assert sorted(turns) == list(range(7)) != turns


def test_configurations_have_labels_of_their_own() -> None:
    """What has another's label would be compared with the other's numbers."""
    for operator in compilations().values():
        labels = [label(options) for options in operator.configurations(everything=True)]
        assert len(set(labels)) == len(labels)


def compiled(tasks: Sequence[Task]) -> list[Compiled]:
    try:
        return compile_all(tasks, lambda done, total: None, processes=1)
    except Exception as error:
        if tasks[0].target.startswith("gfx") and "ld.lld" in str(error):
            pytest.skip("this Triton comes without the linker for AMD GPUs")
        raise


def check(entries: Sequence[Compiled]) -> None:
    """`cofm kernels --write-baseline` accepts new numbers, after somebody has looked at them."""
    spilled = [entry for entry in entries if entry.spilled]
    assert not spilled, "\n".join(map(str, spilled))
    assert not list(baseline.worse(entries, BASELINE))
    usual = {(name, label(options)) for name, part in compilations().items() for options in part.usual}
    triton, known = baseline.read(BASELINE)
    strange = [entry.key for entry in entries if (entry.operator, entry.configuration) in usual
               and (entry.target, entry.key) not in known]  # fmt: skip
    assert not strange or triton != version("triton"), "the file is of another kernel: cofm kernels --write-baseline"


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES, ids="-".join)
@pytest.mark.parametrize("target", MAKES)
def test_every_kernel_compiles_without_a_spill_and_no_worse_than_before(
    target: str, share: Sequence[str], request: pytest.FixtureRequest
) -> None:
    tasks = []
    for name in share:
        part = compilations()[name]
        others = turn(unusual(part, request.config.getoption("every_case")), target, MAKES)
        tasks += [Task(target, name, options) for options in (*part.usual, *others)]
    entries = compiled(tasks)
    assert {entry.kernel for entry in entries} == set().union(*(KERNELS[name] for name in share))
    check(entries)
    scans = [entry for entry in entries if entry.operator in DIAGONAL]  # a read-out sums over lanes
    assert not [entry.key for entry in scans if entry.constants.get("PAIRED") and "shuffle" in entry.instructions]
    if target == "sm_90":
        assert not list(over_budget(entries))


@pytest.mark.slow
@pytest.mark.parametrize("target", REST)
def test_usual_kernels_compile_without_a_spill_and_no_worse_than_before(target: str) -> None:
    usual = {name: turn(operator.usual, target, REST) for name, operator in compilations().items()}
    check(compiled([Task(target, name, options) for name, some in usual.items() for options in some]))


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
