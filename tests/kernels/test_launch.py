"""Launch shapes: the written rule holds its promises for every problem."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from cofm_triton.kernels.launch import (
    LANES,
    MAX_CARRIES,
    MIN_CHUNK_BYTES,
    RESIDENT_DENSE_WORDS,
    RESIDENT_PROGRAMS,
    SEGMENT_BYTES,
    VECTOR_BYTES,
    channels,
    dense,
    layout,
    split,
    split_carries,
)


@given(width=st.integers(1, 10_000), size=st.sampled_from([2, 4, 8]))
def test_blocks_cover_the_channels(width: int, size: int) -> None:
    block = channels(width, size)
    assert (block.num_blocks - 1) * block.block_d < width <= block.num_blocks * block.block_d
    assert block.masked == (width != block.num_blocks * block.block_d)
    assert LANES <= block.block_d <= LANES * VECTOR_BYTES // size
    assert block.block_d & (block.block_d - 1) == 0
    if width % 16:  # every number has an address of its own
        assert block.block_d <= 2 * LANES


@given(
    rows=st.integers(1, 2**21),
    programs=st.integers(1, 1000),
    width=st.integers(1, 2**12),
    size=st.sampled_from([2, 4, 8]),
    num_sms=st.integers(1, 200),
)
def test_chunks_cover_a_segment(rows: int, programs: int, width: int, size: int, num_sms: int) -> None:
    plan = split(rows, programs, width * size, size, num_sms)
    if plan.num_chunks == 1 and plan.length == rows:
        return
    assert (plan.num_chunks - 1) * plan.length < plan.segment <= plan.num_chunks * plan.length
    assert plan.length * size >= MIN_CHUNK_BYTES
    assert plan.segment * width * size <= SEGMENT_BYTES or plan.segment == plan.length
    assert programs * plan.num_chunks <= max(64 * programs, RESIDENT_PROGRAMS * num_sms)


@given(carries=st.integers(1, 2**17))
def test_carries_split_by_the_square_root(carries: int) -> None:
    plan = split_carries(carries)
    assert plan.segment == carries
    assert (plan.num_chunks - 1) * plan.length < carries <= plan.num_chunks * plan.length
    if carries > MAX_CARRIES:
        assert max(plan.num_chunks, plan.length) <= carries**0.5 + 1


@given(
    rows=st.integers(1, 2**16),
    sequences=st.integers(1, 64),
    width=st.integers(1, 2**13),
    size=st.sampled_from([2, 4, 8]),
    num_sms=st.integers(1, 200),
    packed=st.booleans(),
)
def test_time_is_split_last(rows: int, sequences: int, width: int, size: int, num_sms: int, packed: bool) -> None:
    block, plan = layout(rows, sequences, width, size, num_sms, packed=packed)
    full = channels(width, size)
    if block.narrow:
        assert 2 * sequences * full.num_blocks < num_sms
        assert plan.num_chunks == 1
        assert block.block_d * size >= LANES * size
    if plan.num_chunks > 1:
        assert not packed
        assert 2 * sequences * channels(width, size, narrow=True).num_blocks < num_sms


def test_large_problems_stay_whole() -> None:
    assert split(4096, 66, 2**16, 4, 132).num_chunks == 1  # half a program per multiprocessor
    assert split(MAX_CARRIES, 1, 128, 4, 132).num_chunks == 1  # too short to gain anything


def test_one_chain_fills_the_device() -> None:
    # 64 float32 channels, 2^20 steps, an H100: what one multiprocessor can hold, on each of them.
    plan = split(2**20, 1, 64 * 4, 4, 132)
    assert plan.num_chunks >= 4000
    assert plan.segment * 64 * 4 <= SEGMENT_BYTES


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("element_size", [2, 4, 8])
def test_matrices_in_registers(element_size: int, lanes: int) -> None:
    """Resident tiles leave a thread room for the step's own numbers; all widths are covered."""
    for width in (1, 3, 16, 17, 64, 100, 128, 129, 192, 193, 256, 257, 1000):
        shape = dense(width, element_size, lanes)
        assert (shape is None) == (width > (128 if element_size == 8 else 256))
        if shape is None:
            continue
        assert shape.BLOCK * shape.BLOCKS >= width > shape.BLOCK * (shape.BLOCKS - (2 if shape.PACKED else 1))
        tiles = shape.BLOCKS**2 // (2 if shape.PACKED else 1)
        words = shape.BLOCK**2 * max(element_size, 4) // 4 // (lanes * shape.num_warps)
        assert shape.RESIDENT * words <= RESIDENT_DENSE_WORDS
        assert not shape.PACKED or (element_size == 2 and shape.BLOCKS % 2 == 0)
        # Whole, but for float32 from 193 channels on where a multiprocessor has 64 Ki registers: half.
        whole = width <= 192 or element_size == 2 or lanes == 64
        assert tiles == (1 if whole else 2) * shape.RESIDENT
