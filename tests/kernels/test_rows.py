"""Rows of a chunk: those of its sequence and no other, whatever numbers the start indices are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import device_of

from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels.rows import chunk_rows

LENGTH = 7


def _rows(starts_ptr: Any, out_ptr: Any, S: Any, T: Any, chunk_length: Any, REVERSE: tl.constexpr) -> None:
    """The first row, the skipped steps and the steps of a chunk, and its batch index."""
    s, chunk = tl.program_id(0), tl.program_id(1)
    rows = chunk_rows(starts_ptr, s, S, T, 0, T, chunk, chunk_length, REVERSE=REVERSE)
    for i in tl.static_range(4):
        tl.store(out_ptr + (s * tl.num_programs(1) + chunk) * 4 + i, rows[i].to(tl.int64))


rows_kernel = triton.jit(_rows)


def visited(starts: list[int] | None, sequences: int, chunks: int, length: int, reverse: bool) -> list[list[list[int]]]:
    """Rows of each sequence in the order of the recurrence, a list for each chunk."""
    device = device_of("triton")
    given = None if starts is None else torch.tensor(starts, device=device)
    out = torch.full((sequences, chunks, 4), -99, device=device)
    rows_kernel[(sequences, chunks)](given, out, sequences, LENGTH, length, REVERSE=reverse)
    step = -1 if reverse else 1
    found = []
    for s, of_sequence in enumerate(out.tolist()):
        for chunk, (_, skipped, count, batch) in enumerate(of_sequence):
            assert count >= 0 and 0 <= skipped <= chunk * length and batch == (s if starts is None else 0)
        found.append([[entry + step * t for t in range(count)] for entry, _, count, _ in of_sequence])
    return found


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [None, [0], [0, 3], [0, 0, 7, 7], [0, 1, 6]], ids=str)
def test_chunks_tile_their_sequence(starts: list[int] | None, reverse: bool) -> None:
    ends = [LENGTH] if starts is None else [*starts[1:], LENGTH]
    for (begin, end), chunks in zip(
        zip(starts or [0], ends, strict=True), visited(starts, len(ends), 3, 3, reverse), strict=True
    ):
        rows = [row for chunk in chunks for row in chunk]
        assert rows == list(range(begin, end))[:: -1 if reverse else 1]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "starts", [[-3, 2], [0, 9], [0, 4, 2], [7, 1], [2**40, -(2**40), 3], [-(2**62), 2**62]], ids=str
)
def test_wild_starts_stay_inside(starts: list[int], reverse: bool) -> None:
    for chunks in visited(starts, len(starts), 3, 3, reverse):
        assert all(0 <= row < LENGTH for chunk in chunks for row in chunk)
