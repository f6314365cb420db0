"""Launch shapes: the written rule holds its promises for every problem."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("triton")

from cofm_triton.kernels.launch import (
    CHAIN_PROGRAMS,
    FOLDED_CARRIES,
    LANES,
    MAX_CHAIN,
    MIN_CHAINED,
    MIN_CHUNK,
    PARTS,
    RESIDENT_DENSE_WORDS,
    SHORT_CHUNK,
    VECTOR_BYTES,
    Channels,
    Chunks,
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
    spans,
    split_carries,
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
    assert block.part in PARTS
    assert (block.num_blocks - 1) * block.block_d < width <= block.num_blocks * block.block_d
    assert block.masked == (width != block.num_blocks * block.block_d)
    assert LANES <= block.block_d <= LANES * VECTOR_BYTES // size
    assert block.block_d & (block.block_d - 1) == 0
    if width % 16 or not aligned:  # every number has an address of its own
        assert block.block_d <= 2 * LANES


SHAPES = dict(
    rows=st.integers(1, 2**21),
    sequences=st.integers(1, 64),
    width=st.integers(1, 2**13),
    size=st.sampled_from([2, 4, 8]),
    num_sms=st.integers(1, 200),
    streams=st.sampled_from([2, 3, 5]),
)


@given(**SHAPES, pair_lanes=st.sampled_from([0, 32, 64]), aligned=st.booleans())
def test_segments_stay_in_the_cache(
    rows: int, sequences: int, width: int, size: int, num_sms: int, streams: int, pair_lanes: int, aligned: bool
) -> None:
    """All that a segment reads and writes, with its summaries and carries, in the 40 MB that the smallest L2 has."""
    block, plan = layout(rows, sequences, width, size, num_sms, streams=streams, pair_lanes=pair_lanes, aligned=aligned)
    if plan == (rows, rows):
        return
    row_bytes = sequences * width * size
    chunks = -(-plan.segment // plan.length)
    assert (chunks - 1) * plan.length < plan.segment <= rows
    if plan.segment > 1:
        states = 2 * chunks * sequences * width * max(4, size)
        assert plan.segment * row_bytes * streams + states <= 40_000_000 or plan.segment <= SHORT_CHUNK
    assert block.block_d >= 2 * pair_lanes


@given(**SHAPES, packed=st.booleans())
def test_time_is_split_last(
    rows: int, sequences: int, width: int, size: int, num_sms: int, streams: int, packed: bool
) -> None:
    block, plan = layout(rows, sequences, width, size, num_sms, streams=streams, packed=packed)
    if plan != (rows, rows):
        assert not packed and rows > MAX_CHAIN
        assert sequences * block.num_blocks < num_sms
    elif block.part > 1:  # wider ones would not have kept the device busy, or do not exist
        wider = channels(width, size, part=block.part // 2)
        assert wider == block or sequences * wider.num_blocks < num_sms


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
    assert forward_chains(rows, sequences, block, 8, "tanh", num_sms) is None
    assert forward_chains(rows, sequences, block, 8, nonlinearity, num_sms, paired=True) is None
    if plan is not None:
        assert 1 < plan.chunks <= rows // MIN_CHUNK and plan.chunks * programs <= CHAIN_PROGRAMS * num_sms


@given(rows=st.integers(1, 2**21), length=st.integers(1, 5000), segment=st.integers(1, 2**21))
@example(rows=7, length=3, segment=7)
@example(rows=8, length=3, segment=4)
def test_spans_tile_the_rows(rows: int, length: int, segment: int) -> None:
    segment = max(segment, rows // 50 + 1)
    parts = spans(Chunks(length, segment), rows)
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])] and parts[-1].end == rows
    for part in parts:
        assert (part.num_chunks - 1) * length < part.end - part.begin <= min(part.num_chunks * length, segment)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_rows_that_are_left_are_never_all_of_a_block(part: int, gated: bool, is_complex: bool, summed: bool) -> None:
    """Forward, `n % ROWS` rows are left, backward up to ROWS: SHORT at a time, fewer wherever masks are many."""
    block = Channels(128 // part, part, False, part)
    for length in (1, 12, 17, 64, 4096):
        forward = forward_rows(block, length, gated=gated, is_complex=is_complex, summed=summed)
        backward = backward_rows(block, length, gated=gated, is_complex=is_complex)
        assert 1 <= forward["SHORT"] < forward["ROWS"] and 1 <= backward["SHORT"] <= backward["ROWS"]
        if part == 1 and not is_complex:  # all at once
            assert (forward["SHORT"], backward["SHORT"]) == (forward["ROWS"] - 1, backward["ROWS"])
        else:
            assert backward["SHORT"] == 4 and forward["SHORT"] in (4, 15, 16)


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


@given(carries=st.integers(1, 2**17))
def test_carries_split_by_the_square_root(carries: int) -> None:
    length = split_carries(carries)
    chunks = -(-carries // length)
    assert (chunks - 1) * length < carries <= chunks * length
    if carries > MAX_CHAIN:
        assert max(chunks, length) <= carries**0.5 + 1


@pytest.mark.parametrize(
    ("rows", "sequences", "width", "size"),
    [(4096, 2, 512, 4), (4096, 2, 512, 2), (65536, 1, 64, 4), (65536, 1, 64, 2), (30000, 1, 64, 2), (30000, 1, 64, 4)],
)
def test_carries_cost_little_beside_the_rows(rows: int, sequences: int, width: int, size: int) -> None:
    """Forward: x is read twice but for the last chunk, h written, and carries move too: 24 bytes for at least sqrt(T)
    rows of a channel.
    """
    block, plan = layout(rows, sequences, width, size, 132)
    assert plan.length < plan.segment == rows
    chunks = -(-rows // plan.length)
    last = rows - (chunks - 1) * plan.length
    # Per chunk: the decay twice, a summary written; H read, written and read again, or the summaries before it read.
    carries = chunks * (chunks - 1) / 2 if chunks - 1 <= FOLDED_CARRIES else 3 * chunks
    numbers = 3 + 4 * (3 * chunks + carries) / (size * rows) - last / rows
    assert numbers <= 3 + 24 / (size * math.sqrt(rows))
    assert sequences * block.num_blocks * (chunks - 1) >= 132


@pytest.mark.parametrize("size", [2, 4])
def test_neither_walk_is_long(size: int) -> None:
    """Over the rows of a chunk and over the carries: at most about sqrt(T), but where programs are enough."""
    for rows in (1024, 16384, 65536):
        block, plan = layout(rows, 1, 64, size, 132)
        chunks = -(-rows // plan.length)
        assert chunks <= math.isqrt(rows) + 1
        assert plan.length <= math.sqrt(rows) + 64 or block.num_blocks * chunks >= 132


def test_one_chain_fills_the_device() -> None:
    # 64 float32 channels, 2^20 steps, an H100: what one multiprocessor can hold, on each of them.
    for streams in (2, 3, 5):
        block, plan = layout(2**20, 1, 64, 4, 132, streams=streams)
        assert plan.segment // plan.length * block.num_blocks >= 4000


@pytest.mark.parametrize(("rows", "sequences", "width"), [(4096, 2, 512), (65536, 1, 64), (2**20, 1, 64)])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("streams", "written"), [(2, 2), (3, 3), (5, 3)])
def test_split_time_costs_little_beyond_the_cache(
    rows: int, sequences: int, width: int, size: int, streams: int, written: int
) -> None:
    """Per chunk a summary and a carry are written; gated the product of its decays besides, or a row of ddecay if not.
    What is read a second time, and these, the cache still has: `test_segments_stay_in_the_cache`.
    """
    plan = layout(rows, sequences, width, size, 132, streams=streams)[1]
    assert plan.length < plan.segment
    assert written * 4 / size / plan.length < 0.6


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
