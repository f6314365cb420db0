"""Launch shapes: which program owns what, and when time is split. One table, one rule, read by every scan.

Both depend on the shape of the problem and the number of multiprocessors only, never on an autotuner: a new length or
batch size costs no compilation and no trial runs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton

# A warp of 32 lanes moves 16 bytes per lane and row at full width; wider rows only cost registers.
LANES = 32
VECTOR_BYTES = 16
ALIGNED_CHANNELS = 16
NUM_WARPS = 1
# Blocks are as wide as lets them outnumber the multiprocessors, at least a quarter of the full width.
PARTS = (1, 2, 4)
# Splitting: the longest chain left whole, the most carries that a replay adds up by itself, the rows that chunks are
# made of, which the narrowest blocks have in flight, the most chunks of a segment, and how many programs a
# multiprocessor should have: at least, and where chunks are made shorter for it, which makes more carries.
MAX_CHAIN = 256
FOLDED_CARRIES = 15
CHUNK_STEP = 64
MAX_CHUNKS = 256
SPLIT_PROGRAMS = 1.5
BUSY_PROGRAMS = 2
# All that one segment reads and writes stays below this, and with its summaries (less than one row in eight) below the
# 40 MB of L2 that an A100 has (H100: 50, B200: 126, MI300X: 256 in its last level), so that the replay finds its input
# where the summaries left it.
SEGMENT_BYTES = 36_000_000
# Sequences of more segments are cut into short chunks, in steps of so many rows, for as many one-warp programs as there
# can be at a time (CUDA compute capability 8.0 and 9.0: 32 a multiprocessor). In bfloat16 the summaries of the shortest
# are half a number per element.
MANY_SEGMENTS = 4
SHORT_CHUNK = 12
SHORT_STEP = 4
RESIDENT_PROGRAMS = 32

# Sweeps: units come in eights, so that few widths need a compilation of their own. Wide models are computed in groups
# of units that fill one 16-byte load, which keeps the program short enough to compile in seconds; narrow ones unit by
# unit, which saves an instruction per group. Of a thread's 255 registers MAX_STATE_WORDS hold states at the most,
# SHARED_STATE_WORDS where two sequences share coefficients, RESIDENT_WORDS coefficients that are loaded once and for
# all; the wider the model (or with tanh), the fewer steps are left for its block of inputs and outputs. Rounds of
# sequences that a program walks make 8,400 programs of the paper's sweep at m = 64 (12,800 sequences, 660 models), and
# one number per model out of each.
UNIT_STEP = 8
MAX_SINGLE_UNITS = 16
MAX_STATE_WORDS = 64
SHARED_STATE_WORDS = 16
RESIDENT_WORDS = 64
MAX_PER_THREAD = 2
MAX_SWEEP_CHANNELS = 8
MAX_SWEEP_ROWS = 8
SWEEP_ROW_WORDS = 384
TANH_WORDS = 3
SWEEP_WARPS = 4
SWEEP_ROUNDS = 8

# Dense recurrences. A matrix of up to 128 x 128 numbers is one tile: with 8 warps 64 registers of a thread in float32,
# twice that in float64. Wider ones have tiles of 64 x 64 (128 x 128 with warps of 64), for which RESIDENT_DENSE_WORDS
# registers of a thread leave room for all else that a step needs. Where they are too few, one tile less is resident,
# and the rest read in passing.
MAX_DENSE_BLOCK = 128
DENSE_BLOCK = 64
MAX_DENSE_CHANNELS = 256
RESIDENT_DENSE_WORDS = 144
DENSE_WARPS = 8


class Channels(NamedTuple):
    """How channels are laid over programs; `part` of the full width, one of `PARTS`, says how many rows are in flight:
    a block of half the width keeps twice as many.
    """

    block_d: int
    num_blocks: int
    masked: bool
    part: int = 1


class Dense(NamedTuple):
    """How a program of a dense recurrence holds its matrix: BLOCKS x BLOCKS tiles of BLOCK x BLOCK numbers, the first
    RESIDENT in registers; PACKED, half as many tiles of words that hold two numbers each.
    """

    BLOCK: int
    BLOCKS: int
    RESIDENT: int
    PACKED: bool
    num_warps: int


class Step(NamedTuple):
    """One step of a dense recurrence: a program does TILE_B sequences by TILE_N channels, TILE_K terms each time."""

    TILE_B: int
    TILE_N: int
    TILE_K: int
    num_warps: int


# The least number of rows that `tl.dot` takes; few columns, so that many programs share the reading of the matrix.
STEP_SHAPE = Step(16, 32, 32, 4)


class DenseSweep(NamedTuple):
    """How a sweep over dense models goes through its sequences, see `kernels.dense_perturbation`."""

    PAIR: int
    ROWS: int
    SEQUENCES: int


# Two chains hide each other's sums over threads. A program reads D^2 numbers of its matrix and takes 256 sequences:
# 33,000 programs at the paper's size (12,800 sequences, 660 models).
DENSE_SWEEP = DenseSweep(2, 2, 256)


class Chunks(NamedTuple):
    """How time is laid over programs: chunks of `length` rows, in segments of `segment` rows."""

    length: int
    segment: int


def has_aligned_rows(x: Any) -> bool:
    """Whether Triton knows every row of a (B, T, D) tensor to begin at a multiple of 16 bytes: it looks at whether an
    address is divisible by 16, and at every stride.
    """
    stride_b, stride_t, stride_d = x.stride()
    counts = (x.shape[2], stride_b, stride_t)
    return stride_d == 1 and x.data_ptr() % VECTOR_BYTES == 0 and all(n % ALIGNED_CHANNELS == 0 for n in counts)


def channels(channels: int, element_size: int, *, part: int = 1, pair_lanes: int = 0, aligned: bool = True) -> Channels:
    """Blocks of channels: 16-byte accesses, or a `part` of that, where rows are aligned, otherwise two numbers a lane.
    `pair_lanes`, of pairs, is how many threads a warp has: each has two numbers at least.

    Triton knows a stride to be aligned when it is divisible by 16. Where it is not, every number has an address of its
    own, and more than two a lane spill.
    """
    aligned = aligned and channels % ALIGNED_CHANNELS == 0
    least = max(LANES, 2 * pair_lanes)
    full = max(LANES * VECTOR_BYTES // element_size if aligned else 2 * LANES, least)
    block_d = min(full // part, max(least, triton.next_power_of_2(channels)))
    parts = min(full // block_d, PARTS[-1]) if aligned else 1
    return Channels(block_d, triton.cdiv(channels, block_d), channels % block_d != 0, parts)


def layout(
    rows: int, sequences: int, width: int, element_size: int, num_sms: int,
    *, streams: int = 2, packed: bool = False, pair_lanes: int = 0, aligned: bool = True,
) -> tuple[Channels, Chunks]:  # fmt: skip
    """Blocks of channels and chunks of time of `sequences` sequences, `rows` rows of `width` channels each, for a pass
    that reads and writes `streams` numbers per element; `pair_lanes` and `aligned` as for `channels`, the
    latter as `has_aligned_rows` says of all that is read.

    Time is split, which reads an input twice, where even the narrowest blocks do not keep the device busy: a program
    per multiprocessor, 8 KB in flight each. Packed sequences stay whole: they have lengths that the host does not know.

    1. 16 chunks, if they keep it busy: their carries cost no launch.
    2. Otherwise so many that one launch walks their carries: no more than there are rows in a chunk, for the walks
       over rows and over carries take turns, and in a forward pass that reads x and writes h, whose carries weigh most,
       no more than keep the device busy twice over.
    3. More than four segments: as many programs as the device can hold, each with a short chunk.
    """
    blocks = _blocks(width, element_size, pair_lanes, aligned)
    narrowest = sequences * blocks[-1].num_blocks
    if packed or rows <= MAX_CHAIN or narrowest >= num_sms:
        return _busy(blocks, sequences, num_sms), Chunks(rows, rows)
    most = max(SHORT_CHUNK, SEGMENT_BYTES // (streams * sequences * width * element_size))
    segments = triton.cdiv(rows, most)
    segment = triton.cdiv(rows, segments)
    wanted = SPLIT_PROGRAMS * num_sms
    if FOLDED_CARRIES * narrowest >= wanted:
        chunks = FOLDED_CARRIES + 1
    elif segments > MANY_SEGMENTS:
        chunks = RESIDENT_PROGRAMS * num_sms // narrowest
        length = max(SHORT_CHUNK, segment // chunks // SHORT_STEP * SHORT_STEP)
        return blocks[-1], Chunks(length, min(segment, chunks * length))
    elif streams == 2:
        busy = triton.cdiv(BUSY_PROGRAMS * num_sms, narrowest)
        chunks = max(FOLDED_CARRIES + 1, min(_balanced(segment), busy))
    else:
        chunks = MAX_CHUNKS
    length = triton.cdiv(triton.cdiv(segment, chunks), CHUNK_STEP) * CHUNK_STEP
    block = _busy(blocks, sequences * (triton.cdiv(segment, length) - 1), wanted)
    return block, Chunks(min(length, segment), segment)


def narrowest(width: int, element_size: int, *, pair_lanes: int = 0) -> Channels:
    """The blocks of channels with the most rows in flight, for chains that nobody else keeps the device busy beside."""
    return _blocks(width, element_size, pair_lanes)[-1]


def _blocks(width: int, element_size: int, pair_lanes: int, aligned: bool = True) -> list[Channels]:
    """Every width of blocks that a scan may have, the widest first."""
    parts = [part for part in PARTS if part == 1 or (aligned and _divides(width, element_size, part, pair_lanes))]
    return [channels(width, element_size, part=part, pair_lanes=pair_lanes, aligned=aligned) for part in parts]


def _balanced(rows: int) -> int:
    """Chunks for which the walks over the rows of one and over all carries, one after the other, are shortest."""
    return math.isqrt(rows)


def _divides(width: int, element_size: int, part: int, pair_lanes: int) -> bool:
    """Whether blocks may have that part of the full width: aligned rows, one number a lane or more."""
    block_d = LANES * VECTOR_BYTES // element_size // part
    return part == 1 or (width % ALIGNED_CHANNELS == 0 and element_size <= 4 and block_d >= max(LANES, 2 * pair_lanes))


def _busy(blocks: list[Channels], chains: int, programs: float) -> Channels:
    """The widest blocks that make so many programs, or the narrowest."""
    return next((block for block in blocks if chains * block.num_blocks >= programs), blocks[-1])


def chains(
    width: int, sequences: int, element_size: int, num_sms: int, *, pair_lanes: int = 0, aligned: bool = True
) -> Channels:
    """Blocks of channels for chains in time that cannot be split: narrow until half the device has one. `pair_lanes`,
    of pairs, is how many threads a warp has: each has two numbers at least.

    A program of one warp issues an instruction per cycle at the most, for all its channels in turn, and reads as many
    rows ahead as its registers hold: fewer channels mean shorter steps and more rows.
    """
    # With eight 16-bit numbers a lane, rows ahead spill.
    least = max(LANES, 2 * pair_lanes)
    full = max(least if pair_lanes else 0, min(channels(width, element_size, aligned=aligned).block_d, 4 * LANES))
    block_d = full
    while block_d > least and 2 * sequences * triton.cdiv(width, block_d) < num_sms:
        block_d //= 2
    return Channels(block_d, triton.cdiv(width, block_d), width % block_d != 0, 2 if block_d < full else 1)


def units(width: int, features: int, element_size: int) -> Channels:
    """Blocks of recurrent units that hold `features` coefficients each, and as many gradients, in registers: 16 bytes
    of each a lane, less where features are many.
    """
    a_lane = max(1, VECTOR_BYTES // element_size // triton.cdiv(features, 4))
    block_d = min(LANES * triton.next_power_of_2(a_lane), max(LANES, triton.next_power_of_2(width)))
    return Channels(block_d, triton.cdiv(width, block_d), width % block_d != 0)


def dense(channels: int, element_size: int, lanes: int = LANES) -> Dense | None:
    """Tiles of a dense recurrence's matrix, or None where a step needs many programs.

    `element_size` is that of the weight: bfloat16 stays packed where the registers cannot hold it as float32. Small
    matrices take fewer warps, whose sums cost fewer barriers. `lanes` is how many threads a warp has.
    """
    if channels <= MAX_DENSE_BLOCK:
        block = max(16, triton.next_power_of_2(channels))
        warps = block * block * max(4, element_size) // (4 * 32 * LANES)
        return Dense(block, 1, 1, False, max(1, min(DENSE_WARPS, warps)))
    if channels > MAX_DENSE_CHANNELS or element_size > 4:
        return None
    block = DENSE_BLOCK * lanes // LANES
    blocks = triton.cdiv(channels, block)
    room = RESIDENT_DENSE_WORDS * DENSE_WARPS * lanes // block**2
    packed = element_size == 2 and blocks**2 > room
    blocks += packed and blocks % 2
    tiles = blocks**2 // (2 if packed else 1)
    return Dense(block, blocks, tiles if tiles <= room else room - 1, packed, DENSE_WARPS)


def split_carries(carries: int) -> int:
    """Chunk length for a chain of carries: the square root balances the two levels that are left."""
    return carries if carries <= MAX_CHAIN else math.isqrt(carries - 1) + 1


class Increments(NamedTuple):
    """How increments are laid over programs, see `kernels.memory_increment`."""

    BLOCK_N: int
    BLOCK_I: int
    num_warps: int


def increments(units: int) -> Increments:
    """Blocks of inputs and units of one warp: two numbers a lane, independent chains that hide each other's latency."""
    block_i = min(2 * LANES, triton.next_power_of_2(units))
    return Increments(2 * LANES // block_i, block_i, NUM_WARPS)


class Sweep(NamedTuple):
    """How a sweep over models and sequences is laid over programs, see `kernels.perturbation`."""

    groups: int
    group: int
    resident: bool
    block_k: int
    block_n: int
    per_thread: int
    rows: int
    rounds: int
    num_warps: int


def sweep(units: int, inputs: int, outputs: int, element_size: int, tanh: bool) -> Sweep | None:
    """Launch shape for models of `units` units, or None where a thread's registers cannot hold their states.

    Lanes are models, warps are sequences. Narrow models take several sequences per thread: independent chains, and
    coefficients that are loaded once for all of them.
    """
    padded, size = triton.cdiv(units, UNIT_STEP) * UNIT_STEP, element_size // 4
    words = padded * size
    if words > MAX_STATE_WORDS or max(inputs, outputs) > MAX_SWEEP_CHANNELS:
        return None
    group = 1 if padded <= MAX_SINGLE_UNITS else VECTOR_BYTES // element_size
    per_thread = max(1, min(MAX_PER_THREAD, SHARED_STATE_WORDS // words))
    step_words = size**2 * (TANH_WORDS if tanh else 1)
    rows = max(1, min(MAX_SWEEP_ROWS, SWEEP_ROW_WORDS // (words * step_words)) // max(inputs, outputs))
    resident = words * (2 + inputs + outputs) <= RESIDENT_WORDS
    return Sweep(padded // group, group, resident, LANES, SWEEP_WARPS, per_thread, rows, SWEEP_ROUNDS, SWEEP_WARPS)
