"""A kernel that gets worse is noticed, one that gets better or is new is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from cofm_triton.evidence.compilation import baseline
from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.evidence.compilation.offline import Compiled, parse_targets
from cofm_triton.evidence.compilation.report import lines

ENTRY = Compiled(
    "sm_90", "linear_scan", "linear_scan_forward_kernel", "float32",
    {"SUMMARY": False, "GATED": False, "ROWS": 16, "BLOCK_D": 128, "num_warps": 1},
    registers=104, spilled=0, shared=0, instructions={"float": 1.0, "integer": 1.5},
    accesses={"load 16": 0.25, "store 16": 0.25}, bytes=8.0,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.json"
    baseline.write(path, [ENTRY], {"machine": {}})
    return path


@pytest.mark.parametrize(
    ("changed", "noticed"),
    [
        (ENTRY, None),
        (replace(ENTRY, registers=96, instructions={"float": 1.0}), None),
        (replace(ENTRY, configuration="float64", spilled=8), None),
        (replace(ENTRY, spilled=8), "spills 8, 0 before"),
        (replace(ENTRY, registers=113), "113 registers, 104 before"),
        (replace(ENTRY, instructions={"float": 1.0, "integer": 1.6}), "2.60 instructions per element, 2.50 before"),
        # How a launch is tuned does not make it another kernel.
        (replace(ENTRY, constants={**ENTRY.constants, "ROWS": 8}, spilled=8), "spills 8, 0 before"),
    ],
)
def test_what_is_noticed(path: Path, changed: Compiled, noticed: str | None) -> None:
    found = list(baseline.worse([changed], path))
    assert len(found) == (noticed is not None)
    assert noticed is None or noticed in found[0]


def test_another_release_of_triton_is_not_compared(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "triton": "0.0"}))
    assert not list(baseline.worse([replace(ENTRY, spilled=8)], path))


def test_what_was_not_compiled_stays(path: Path) -> None:
    other, elsewhere = replace(ENTRY, operator="rnn_scan", kernel="rnn"), replace(ENTRY, target="sm_80")
    baseline.update(path, [other, elsewhere], {"machine": {}})
    better = replace(ENTRY, registers=96)
    baseline.update(path, [better], {"machine": {}})
    assert list(baseline.read(path)[1].values()) == [elsewhere, better, other]


def test_what_another_release_compiled_does_not_stay(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "triton": "0.0"}))
    baseline.update(path, [replace(ENTRY, target="sm_80")], {"machine": {}})
    assert [target for target, _ in baseline.read(path)[1]] == ["sm_80"]


def test_table_shows_limits_and_their_source() -> None:
    text = "\n".join(lines([ENTRY]))
    assert "sm_90, H100: 3.35 TB/s" in text
    assert "a model, not a" in text
    row = next(line for line in lines([ENTRY]) if "linear_scan_forward" in line)
    # 2.5 instructions at 33.5e12/s against 8 bytes at 3.35e12/s.
    assert row.split()[-3:] == ["0.03", "419", "mem"]
    (row,) = [line for line in lines([replace(ENTRY, bytes=0.08)]) if "linear_scan_forward" in line]
    assert row.split()[-2:] == ["1.34e+04", "issue"]


def test_occupancy_by_hand() -> None:
    device = DEVICES["sm_90"]
    assert device.occupancy(64, 1, 0) == 0.5  # 32 programs of one warp: all that fit, of 64 warps
    assert device.occupancy(64, 4, 0) == 0.5  # 65,536 registers / (64 x 32 x 4) = 8 programs
    assert device.occupancy(255, 1, 0) == 8 / 64  # 256 registers x 32 lanes: 8 warps
    assert device.occupancy(32, 4, 114 * 1024) == 8 / 64  # 2 programs by shared memory


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match=r"target must be one of sm_80.*got 'sm_75'"):
        parse_targets("sm_90,sm_75")
