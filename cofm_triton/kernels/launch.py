"""Launch shapes: which program owns what, and when time is split. One table, one rule, read by every scan.

Both depend on the shape of the problem and the number of multiprocessors only, never on an autotuner: a new length or
batch size costs no compilation and no trial runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton

# A warp of 32 lanes moves 16 bytes per lane and row at full width; wider rows only cost registers.
LANES = 32
VECTOR_BYTES = 16
ALIGNED_CHANNELS = 16
NUM_WARPS = 1
# Splitting: bytes of a channel in a chunk that still amortise a program's start and its summary, which is float32
# whatever the tensor is, and the longest chain of carries left unsplit.
MIN_CHUNK_BYTES = 64
MAX_CARRIES = 128
# x and h of one segment together stay below the 40 MB of L2 that an A100 has (H100: 50, B200: 126), so that the
# replay finds x where the summaries left it.
SEGMENT_BYTES = 16 * 2**20
# One-warp programs that one multiprocessor holds at a time (CUDA compute capability 8.0 and 9.0: 32 blocks).
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
# twice that in float64. Wider ones have tiles of 64 x 64, for which RESIDENT_DENSE_WORDS registers of a thread leave
# room for all else that a step needs. Where they are too few, one tile less is resident, and the rest read in passing.
MAX_DENSE_BLOCK = 128
DENSE_BLOCK = 64
MAX_DENSE_CHANNELS = 256
RESIDENT_DENSE_WORDS = 144
DENSE_WARPS = 8


class Channels(NamedTuple):
    """How channels are laid over programs; a narrow block has half the channels and keeps twice the rows in flight."""

    block_d: int
    num_blocks: int
    masked: bool
    narrow: bool = False


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
    """How time is laid over programs: `num_chunks` chunks of `length` rows, in segments of `segment` rows."""

    num_chunks: int
    length: int
    segment: int


def channels(channels: int, element_size: int, *, narrow: bool = False) -> Channels:
    """Blocks of channels: 16-byte accesses (8-byte if `narrow`) where rows are aligned, otherwise two numbers a lane.

    Triton knows a stride to be aligned when it is divisible by 16. Where it is not, every number has an address of its
    own, and more than two a lane spill.
    """
    aligned = channels % ALIGNED_CHANNELS == 0
    narrow = narrow and aligned and element_size <= VECTOR_BYTES // 4
    full = LANES * VECTOR_BYTES // element_size if aligned else 2 * LANES
    block_d = min(full // 2 if narrow else full, max(LANES, triton.next_power_of_2(channels)))
    return Channels(block_d, triton.cdiv(channels, block_d), channels % block_d != 0, narrow)


def layout(
    rows: int, sequences: int, width: int, element_size: int, num_sms: int, *, packed: bool = False
) -> tuple[Channels, Chunks]:
    """Blocks of channels and chunks of time of `sequences` sequences, `rows` rows of `width` channels each.

    Blocks of full width if they keep the device busy; narrow ones if only these do; otherwise time is split, which
    reads its input twice. Packed sequences stay whole: they have lengths that the host does not know.
    """
    full, narrow = channels(width, element_size), channels(width, element_size, narrow=True)
    starved = not _busy(sequences * full.num_blocks, num_sms)
    if starved and (packed or _busy(sequences * narrow.num_blocks, num_sms)):
        return narrow, Chunks(1, rows, rows)
    if packed:
        return full, Chunks(1, rows, rows)
    return full, split(rows, sequences * full.num_blocks, sequences * width * element_size, element_size, num_sms)


def _busy(programs: int, num_sms: int) -> bool:
    """Half a program per multiprocessor already keeps the memory busy: 16 rows of 512 bytes in flight each."""
    return 2 * programs >= num_sms


def units(width: int, features: int, element_size: int) -> Channels:
    """Blocks of recurrent units that hold `features` coefficients each, and as many gradients, in registers: 16 bytes
    of each a lane, less where features are many.
    """
    a_lane = max(1, VECTOR_BYTES // element_size // triton.cdiv(features, 4))
    block_d = min(LANES * triton.next_power_of_2(a_lane), max(LANES, triton.next_power_of_2(width)))
    return Channels(block_d, triton.cdiv(width, block_d), width % block_d != 0)


def dense(channels: int, element_size: int, lanes: int = LANES) -> Dense | None:
    """Tiles of a dense recurrence's matrix, or None where a step needs many programs.

    `element_size` is that of the weight: bfloat16 that the registers cannot hold as float32 stays packed. Small
    matrices take fewer warps, whose sums cost fewer barriers. `lanes` is how many threads a warp has.
    """
    if channels <= MAX_DENSE_BLOCK:
        block = max(16, triton.next_power_of_2(channels))
        warps = block * block * max(4, element_size) // (4 * 32 * LANES)
        return Dense(block, 1, 1, False, max(1, min(DENSE_WARPS, warps)))
    if channels > MAX_DENSE_CHANNELS or element_size > 4:
        return None
    blocks = triton.cdiv(channels, DENSE_BLOCK)
    room = RESIDENT_DENSE_WORDS * DENSE_WARPS * lanes // DENSE_BLOCK**2
    packed = element_size == 2 and blocks**2 > room
    blocks += packed and blocks % 2
    tiles = blocks**2 // (2 if packed else 1)
    return Dense(DENSE_BLOCK, blocks, tiles if tiles <= room else room - 1, packed, DENSE_WARPS)


def split(rows: int, programs: int, row_bytes: int, element_size: int, num_sms: int) -> Chunks:
    """Chunks of time for `programs` independent chains of `rows` rows, `row_bytes` of input per row over all
    chains.

    A busy device and short chains gain nothing: these are left whole. Otherwise 64 chunks if they make a program per
    multiprocessor (the chain of 64 carries is one short launch); failing that, as many programs as the device can hold
    at once.
    """
    if _busy(programs, num_sms) or rows <= MAX_CARRIES:
        return Chunks(1, rows, rows)
    shortest = max(16, MIN_CHUNK_BYTES // element_size)
    segment = max(shortest, min(rows, SEGMENT_BYTES // row_bytes))
    chunks = 64 if 64 * programs >= num_sms else RESIDENT_PROGRAMS * num_sms // programs
    length = max(shortest, triton.cdiv(segment, chunks))
    return Chunks(triton.cdiv(segment, length), length, segment)


def split_carries(carries: int) -> Chunks:
    """Chunks for a chain of carries: the square root balances the two levels that are left."""
    if carries <= MAX_CARRIES:
        return Chunks(1, carries, carries)
    length = math.isqrt(carries - 1) + 1
    return Chunks(triton.cdiv(carries, length), length, carries)


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
