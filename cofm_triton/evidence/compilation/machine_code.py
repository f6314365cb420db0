"""Reading machine code: resources, and the instructions of the loop along time by class.

A scan kernel spends its time in one loop, whose body works on ROWS rows of BLOCK_D channels. It is the innermost loop
with most accesses to global memory; its instructions are counted and divided by the elements that one thread has in it.
NVIDIA's code is disassembled by the tools that come with Triton, and a loop is what a backward branch closes. AMD's is
the compiler's own assembly, whose comments say which loop a block belongs to: some blocks lie far from their loop.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CLASSES = ("float", "special", "convert", "integer", "global", "shared", "local", "shuffle", "sync", "control")

# The first class whose pattern an opcode starts with. What is left computes addresses, predicates and copies.
_NVIDIA = {
    "float": r"[FD](FMA|ADD|MUL|MNMX|SEL|SETP|SET|CHK)|H(FMA2|ADD2|MUL2|MNMX2|SETP2)|[HD]MMA|HGMMA",
    "special": r"MUFU",
    "convert": r"F2|I2F|FRND",
    "global": r"LDG|STG|ATOM(?!S)|RED\b",
    "shared": r"LDS|STS|ATOMS",
    "local": r"LDL|STL",
    "shuffle": r"SHFL",
    "sync": r"BAR|MEMBAR|WARPSYNC|DEPBAR",
    "control": r"BR[AX]|EXIT|BSSY|BSYNC|BREAK|CALL|RET|NOP|YIELD",
    "integer": r"",
}
_AMD = {
    "special": r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_",
    "convert": r"v_cvt",
    "float": r"v_(pk_)?(fma|fmac|mac|mad|mul|add|sub|subrev|min|max|med3|cmp\w*|mfma|div)_\w*f(16|32|64)",
    "global": r"(global|buffer|flat)_(load|store|atomic)",
    "shared": r"ds_(?!bpermute|permute|swizzle)",
    "local": r"scratch_",
    "shuffle": r"ds_(bpermute|permute|swizzle)|v_\w*_dpp|v_readlane|v_readfirstlane",
    "sync": r"s_barrier|s_waitcnt",
    "control": r"s_(c?branch|nop|endpgm|setprio)",
    "integer": r"",
}
_NVIDIA_LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*);")
_NVIDIA_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "ushort": 2, "byte": 1, "ubyte": 1}


# `.LBB0_3:` or, without a label, `; %bb.4:`.
_AMD_BLOCK = re.compile(r"^(?:\.L|; %)(BB\d+_\d+|bb\.\d+):")


class Resources(NamedTuple):
    """What a program takes: registers per thread, bytes or registers that spill, bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


class Loop(NamedTuple):
    """Instructions of one turn of the loop along time, by class, and its accesses, by name such as `load 16`."""

    instructions: dict[str, int]
    accesses: dict[str, int]


class _Line(NamedTuple):
    """An instruction, with the labels before it and the label it may branch to."""

    opcode: str
    labels: tuple[str, ...]
    branch: str | None


def read(code: Mapping[str, Any], shared: int) -> tuple[Resources, Loop | None]:
    """Resources and main loop of a compiled kernel.

    Args:
        code: Triton's `kernel.asm`.
        shared: bytes of shared memory, from the kernel's metadata.
    """
    if "amdgcn" in code:
        text = str(code["amdgcn"])
        spilled = sum(map(int, re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", text)))
        (registers,) = re.findall(r"\.vgpr_count:\s*(\d+)", text)
        return Resources(int(registers), spilled, shared), _main_loop(_amd_loops(text), _AMD)
    report, listing = _disassemble(code["cubin"])
    (usage,) = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", report)
    registers, stack, local = map(int, usage)
    return Resources(registers, stack + local, shared), _main_loop(_nvidia_loops(listing), _NVIDIA)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """NVIDIA's resource report and its disassembly; the tools come with Triton."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        # The analysis left out annotates indirect branches, which no loop is made of, and takes a third of the time.
        commands: list[list[str | Path]] = [
            [tools / "cuobjdump", "--dump-resource-usage"],
            [tools / "nvdisasm", "--print-code", "--no-dataflow"],
        ]
        report, listing = (
            subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout for command in commands
        )
    return report, listing


def _nvidia_lines(listing: str) -> Iterator[_Line]:
    labels: list[str] = []
    for line in listing.splitlines():
        if label := re.match(r"^(\.L_x_\d+):", line):
            labels.append(label[1])
        elif found := _NVIDIA_LINE.match(line):
            branch = re.search(r"`\((\.L_x_\d+)\)", found[2])
            yield _Line(found[1], tuple(labels), branch[1] if branch and found[1].startswith("BRA") else None)
            labels.clear()


def _nvidia_loops(listing: str) -> list[list[str]]:
    """Opcodes of each innermost loop."""
    lines = list(_nvidia_lines(listing))
    at = {label: index for index, line in enumerate(lines) for label in line.labels}
    loops = [
        (at[line.branch], index)
        for index, line in enumerate(lines)
        if line.branch is not None and at.get(line.branch, index) < index
    ]
    inner = [(a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)]
    return [[line.opcode for line in lines[begin : end + 1]] for begin, end in inner]


def _amd_loops(text: str) -> list[list[str]]:
    """Opcodes of each innermost loop, as far as the compiler says that blocks belong to one."""
    loops: dict[str, list[str]] = {}
    inner: set[str] = set()
    block, loop = "", None
    for line in text.splitlines():
        if label := _AMD_BLOCK.match(line):
            block, loop = label[1], None
        if "Inner Loop Header" in line:
            loop = block
            inner.add(block)
        elif header := re.search(r"in Loop: Header=(BB\d+_\d+)", line):
            loop = header[1]
        if loop is not None and (found := re.match(r"^\t([a-z]\w+)", line)):
            loops.setdefault(loop, []).append(found[1])
    return [body for header, body in loops.items() if header in inner]


def _main_loop(loops: Sequence[Sequence[str]], patterns: Mapping[str, str]) -> Loop | None:
    """The loop with most accesses to global memory; None if there is none with any."""
    counted = [(Counter(_class_of(opcode, patterns) for opcode in body), body) for body in loops]
    if not any(classes["global"] for classes, _ in counted):
        return None
    classes, body = max(counted, key=lambda loop: loop[0]["global"])
    accesses = Counter(_access(opcode) for opcode in body if _class_of(opcode, patterns) == "global")
    return Loop({name: classes[name] for name in CLASSES if classes[name]}, dict(sorted(accesses.items())))


def _class_of(opcode: str, patterns: Mapping[str, str]) -> str:
    return next(name for name, pattern in patterns.items() if re.match(pattern, opcode))


def _access(opcode: str) -> str:
    """`load 16` for an instruction that loads 16 bytes per thread."""
    if opcode[0].isupper():
        words = opcode.split(".")
        width = next((_NVIDIA_WIDTHS[word] for word in words if word in _NVIDIA_WIDTHS), 4)
        return f"{'load' if words[0] == 'LDG' else 'store'} {width}"
    _kind, _, size = opcode.partition("_load_") if "_load_" in opcode else opcode.partition("_store_")
    return f"{'load' if '_load_' in opcode else 'store'} {_AMD_WIDTHS.get(size.split('_')[0], 4)}"
