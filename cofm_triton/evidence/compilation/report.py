"""The tables of compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.evidence.compilation.machine_code import CLASSES
from cofm_triton.evidence.compilation.offline import Compiled

HEADS = ("kernel", "configuration", "rows x channels", "regs", "spill", "smem", "occ", "instr", "of which", "access",
         "bytes", "issue", "roof")  # fmt: skip
LEGEND = (
    "regs: registers per thread. spill: bytes (AMD: registers) spilled. smem: bytes of shared memory. occ: warps that",
    "can be resident, of those a multiprocessor holds. instr: thread-instructions per element of the loop along time,",
    "counted in the machine code; an element is a real number of h, in a sweep a unit of one model on one sequence.",
    "access: bytes of one load, store. bytes: per element by the operator's traffic model. issue (a model, not a",
    "measurement): time to issue the instructions over time to move the bytes at the data sheet's peaks. roof (of the",
    "same model): billions of elements per second that a kernel cannot exceed, and what forbids more, mem or issue;",
    "whether enough is in flight to get there is not part of it. Constants and sources: devices.py.",
)
_SHORT = {"float": "f", "special": "s", "convert": "c", "integer": "i", "global": "g", "shared": "sh", "local": "l",
          "shuffle": "x", "sync": "b", "control": "j"}  # fmt: skip


def lines(compiled: Sequence[Compiled]) -> Iterator[str]:
    """A table per target."""
    for target in dict.fromkeys(entry.target for entry in compiled):
        device = DEVICES[target]
        yield ""
        yield (
            f"{target}, {device.name}: {device.bandwidth / 1e12:.3g} TB/s, "
            f"{device.instructions / 1e12:.3g}e12 thread-instructions/s"
        )
        rows = [HEADS, *(_cells(entry) for entry in compiled if entry.target == target)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    yield from LEGEND
    yield "of which: " + ", ".join(f"{short} {name}" for name, short in _SHORT.items())


def _cells(entry: Compiled) -> tuple[str, ...]:
    device = DEVICES[entry.target]
    constants = entry.constants
    warps = constants.get("num_warps", 4)
    phase = ", summaries" if constants.get("SUMMARY", False) else ""
    issue = roof = "-"
    if entry.total is not None and entry.bytes is not None:
        share = device.issue_share(entry.total, entry.bytes)
        issue = f"{share:.2f}" if share < 100 else f"{share:.0f}"
        roof = f"{device.roof(entry.total, entry.bytes) / 1e9:.3g} {'mem' if share < 1 else 'issue'}"
    return (
        entry.kernel.removesuffix("_kernel") + phase,
        entry.configuration,
        f"{constants.get('ROWS', '-')} x {constants.get('BLOCK_D', '-')}",
        str(entry.registers),
        str(entry.spilled),
        str(entry.shared),
        f"{device.occupancy(entry.registers, warps, entry.shared):.0%}",
        "-" if entry.total is None else f"{entry.total:.2f}",
        " ".join(f"{_SHORT[n]} {entry.instructions[n]:.2g}" for n in CLASSES if entry.instructions.get(n, 0) >= 0.05),
        _accesses(entry),
        "-" if entry.bytes is None else f"{entry.bytes:.3g}",
        issue,
        roof,
    )


def _accesses(entry: Compiled) -> str:
    """`16, 16`: most frequent widths of loads and stores, narrower ones after a slash."""
    parts = []
    for kind in ("load", "store"):
        widths = sorted((int(name.split()[1]) for name in entry.accesses if name.startswith(kind)), reverse=True)
        parts.append("/".join(map(str, widths)) or "-")
    return ", ".join(parts)
