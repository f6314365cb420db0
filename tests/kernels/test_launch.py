"""Launch shapes: the written rule holds its promises for every problem."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("triton")

from cofm_triton.kernels.launch import (
    BUSY_PROGRAMS,
    CHAIN_PROGRAMS,
    FOLD_ROWS,
    LANES,
    MAX_SEGMENT,
    MAX_WALK,
    MIN_CHAINED,
    MIN_CHUNK,
    RESIDENT_DENSE_WORDS,
    SPLIT_ROWS,
    TILE_WARPS,
    VECTOR_BYTES,
    WIDE_CHAIN_ROWS,
    backward_rows,
    chains,
    channels,
    chunk_length,
    dense,
    forward_chains,
    forward_rows,
    has_aligned_rows,
    layout,
    readout_backward_rows,
    readout_forward_rows,
    sweep,
)
from cofm_triton.ops.rnn_readout import CHUNK_ROWS, MAX_FEATURES
from cofm_triton.step.activations import NONLINEARITIES


def test_rows_that_triton_knows_to_be_aligned() -> None:
    """An address and all strides divisible by 16, channels next to each other."""
    x = torch.zeros(2, 7, 64)
    assert has_aligned_rows(x) and has_aligned_rows(x[:, ::2]) and has_aligned_rows(x[..., 16:48])
    assert has_aligned_rows(x[:1, :1].expand(3, 5, 64))
    assert not has_aligned_rows(x[..., 1:33])  # address
    assert has_aligned_rows(x[..., 4:36]) and not has_aligned_rows(x.bfloat16()[..., 4:36])
    assert not has_aligned_rows(x[..., ::2])
    assert not has_aligned_rows(torch.zeros(2, 16, 33)[..., :32])  # rows
    assert not has_aligned_rows(torch.zeros(16, 2, 64).flatten(1)[:, :120].view(16, 1, 120))  # width
    assert not has_aligned_rows(torch.zeros(2, 7 * 64 + 1)[:, :448].view(2, 7, 64))  # sequences
    assert not has_aligned_rows(torch.zeros(2, 64, 16).transpose(1, 2))


@given(width=st.integers(1, 10_000), size=st.sampled_from([2, 4, 8]), aligned=st.booleans())
@example(width=32, size=2, aligned=True)
def test_blocks_cover_the_channels(width: int, size: int, aligned: bool) -> None:
    block = channels(width, size, aligned=aligned)
    assert (block.num_blocks - 1) * block.block_d < width <= block.num_blocks * block.block_d
    assert block.masked == (width != block.num_blocks * block.block_d)
    assert LANES <= block.block_d <= LANES * VECTOR_BYTES // size
    assert block.block_d & (block.block_d - 1) == 0
    if width % 16 or not aligned:  # every number has an address of its own
        assert block.block_d <= 2 * LANES


@given(
    rows=st.integers(1, 2**21),
    sequences=st.integers(1, 64),
    width=st.integers(1, 2**13),
    size=st.sampled_from([2, 4, 8]),
    num_sms=st.integers(1, 400),
    lanes=st.sampled_from([32, 64]),
    pairs=st.booleans(),
    packed=st.booleans(),
    aligned=st.booleans(),
)
def test_time_is_shared_out_where_channels_are_few(
    rows: int, sequences: int, width: int, size: int, num_sms: int, lanes: int, pairs: bool, packed: bool, aligned: bool
) -> None:
    tiles = layout(
        rows, sequences, width, size, num_sms, lanes=lanes, pairs=pairs, packed=packed, aligned=aligned
    )  # fmt: skip
    assert (tiles.num_blocks - 1) * tiles.block_d < width <= tiles.num_blocks * tiles.block_d
    assert tiles.masked == (width % tiles.block_d != 0)
    assert (tiles.num_chunks - 1) * tiles.chunk_length < rows <= tiles.num_chunks * tiles.chunk_length
    programs = sequences * tiles.num_blocks
    if tiles.segments == 1:  # a warp walks a sequence
        assert programs >= BUSY_PROGRAMS * num_sms and (tiles.num_chunks, tiles.num_warps) == (1, 1)
    else:  # every lane has one number of a row, or two
        a_lane, rest = divmod(tiles.segments * tiles.block_d, lanes * tiles.num_warps)
        assert tiles.num_warps == TILE_WARPS and rest == 0
        assert a_lane == (2 if pairs else 1)
        assert tiles.segments & (tiles.segments - 1) == 0
    if tiles.num_chunks > 1:  # one tile of a program folds all summaries
        assert not packed and rows >= SPLIT_ROWS and 6 * programs < num_sms
        assert tiles.num_chunks <= FOLD_ROWS * tiles.segments
    for gates in (0, 1, 2):
        forward = forward_rows(tiles, gates=gates, is_complex=pairs)
        backward = backward_rows(tiles, gates=gates, is_complex=pairs)
        assert forward["ROWS"] >= backward["ROWS"] >= backward["SHORT"] >= 1 <= forward["SHORT"]
        most = MAX_WALK if tiles.segments == 1 else MAX_SEGMENT
        assert forward["ROWS"] <= most
        # Forward `n % ROWS` rows are left: a mask that never holds makes Triton 3.9 fail.
        assert forward["SHORT"] < forward["ROWS"] or tiles.segments > 1
        for found, rule in ((forward, forward_rows), (backward, backward_rows)):
            cut = rule(tiles, gates=gates, is_complex=pairs, with_resets=True)
            assert 2 <= cut["ROWS"] <= found["ROWS"] and 1 <= cut["SHORT"] <= cut["ROWS"]


@pytest.mark.parametrize("shape", [(8, 4096, 256), (2, 4096, 512), (1, 2048, 64), (2, 65536, 512)])
def test_one_launch_while_programs_can_draw_the_bandwidth(shape: tuple[int, int, int]) -> None:
    batch, rows, width = shape
    for size in (2, 4):
        tiles = layout(rows, batch, width, size, 132)
        assert tiles.segments > 1 == tiles.num_chunks
        assert tiles.block_d in (16, 32)


@given(
    rows=st.integers(1, 2**21),
    sequences=st.integers(1, 64),
    width=st.integers(1, 2**13),
    num_sms=st.integers(1, 200),
    nonlinearity=st.sampled_from(NONLINEARITIES),
)
def test_chains_fill_an_idle_device(rows: int, sequences: int, width: int, num_sms: int, nonlinearity: str) -> None:
    block = chains(width, sequences, 4, num_sms)
    programs = sequences * block.num_blocks
    plan = forward_chains(rows, sequences, block, 4, nonlinearity, num_sms)
    idle = rows >= MIN_CHAINED and 2 * programs <= num_sms
    assert (chunk_length(rows, sequences, block, num_sms) is not None) == idle
    assert (plan is not None) == (idle and nonlinearity != "relu")
    if plan is not None:
        for act, paired in (("tanh", False), (nonlinearity, True)):  # fewer rows in float64, in as many chunks
            wide = forward_chains(rows, sequences, block, 8, act, num_sms, paired=paired)
            assert wide is not None and wide.chunks == plan.chunks and wide.rows <= WIDE_CHAIN_ROWS
        assert 1 < plan.chunks <= rows // MIN_CHUNK and plan.chunks * programs <= CHAIN_PROGRAMS * num_sms


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("rows", [65536, 2**20])
def test_few_channels_fill_the_device_with_chunks(size: int, rows: int) -> None:
    """64 channels, an H100: a program for every multiprocessor, and summaries that are few beside its rows."""
    tiles = layout(rows, 1, 64, size, 132)
    assert 132 <= tiles.num_blocks * (tiles.num_chunks - 1) <= 2 * 132
    assert tiles.num_chunks < tiles.chunk_length


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("inputs", range(1, MAX_FEATURES))
def test_blocks_of_a_fused_read_out_tile_its_chunks(inputs: int, size: int, paired: bool) -> None:
    """Both passes cut a chunk, a multiple of CHUNK_ROWS steps, into whole blocks of at most that many steps."""
    forward = readout_forward_rows(inputs)
    for outputs in range(1, MAX_FEATURES - inputs + 1):
        backward = readout_backward_rows(inputs + outputs, size, paired=paired)
        assert CHUNK_ROWS % forward == CHUNK_ROWS % backward == 0
        assert size == 4 or backward == 1


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


@pytest.mark.parametrize("units", [8, 16, 32, 64])
@pytest.mark.parametrize("cost", [1, 3])
def test_the_paper_sweep_fills_an_h100(units: int, cost: int) -> None:
    """12,800 sequences and 631 models: every one of 132 multiprocessors is busy to the end, and x is read once for 32.

    255 registers a thread leave two programs of four warps per multiprocessor; with eight rounds of them or more, the
    last one, partly filled, is at most an eighth of the time.
    """
    shape = sweep(units, 1, 1, 4, cost)
    assert shape is not None and shape.BLOCK_K >= 16
    blocks = math.ceil(12_800 / (shape.BLOCK_N * shape.PER_THREAD * shape.ROUNDS)) * math.ceil(631 / shape.BLOCK_K)
    at_a_time = 132 * (65_536 // (255 * 32 * shape.num_warps))
    assert blocks >= 8 * at_a_time


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize(("size", "sequences", "num_sms"), [(2, 1, 132), (4, 1, 132), (4, 64, 1), (8, 3, 16)])
@pytest.mark.parametrize("width", [2, 66, 512, 1000])
def test_pairs_share_a_lane(width: int, size: int, sequences: int, num_sms: int, lanes: int, aligned: bool) -> None:
    """Two numbers a lane at least, however few the channels; otherwise blocks are those of units."""
    block = chains(width, sequences, size, num_sms, pair_lanes=lanes, aligned=aligned)
    assert block.block_d == max(2 * lanes, chains(width, sequences, size, num_sms, aligned=aligned).block_d)
    assert (block.num_blocks - 1) * block.block_d < width <= block.num_blocks * block.block_d
    assert block.masked == (width % block.block_d != 0)


@given(
    width=st.integers(1, 2**13),
    sequences=st.integers(1, 64),
    size=st.sampled_from([2, 4, 8]),
    num_sms=st.integers(1, 200),
    aligned=st.booleans(),
)
def test_chains_are_as_narrow_as_they_are_few(
    width: int, sequences: int, size: int, num_sms: int, aligned: bool
) -> None:
    block = chains(width, sequences, size, num_sms, aligned=aligned)
    full = min(channels(width, size, aligned=aligned).block_d, 4 * LANES)
    assert (block.num_blocks - 1) * block.block_d < width <= block.num_blocks * block.block_d
    assert block.masked == (width != block.num_blocks * block.block_d)
    assert LANES <= block.block_d <= full
    assert (block.part == 2) == (block.block_d < full)
    if block.block_d > LANES:  # enough programs
        assert 2 * sequences * block.num_blocks >= num_sms
    if block.part == 2:  # which half as many would not have been
        assert 2 * sequences * -(-width // (2 * block.block_d)) < num_sms
