"""Launch shapes: which program owns what, how many rows it has in flight, and when time is split.

All of them follow from the shape of the problem and the number of multiprocessors, never from an autotuner: a new
length or batch size costs no compilation and no trial runs. The numbers stand below, each with its reason; the rules
that use them are the functions of this file.

Names: a lane is a thread of a warp; rows in flight are loads issued before the first of them is used; a chain is a walk
along time that nothing splits; a chunk is a part of a chain that has a program of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl

from cofm_triton.step.activations import properties

# Rows of channels.
LANES = 32  # of a warp on NVIDIA GPUs
VECTOR_BYTES = 16  # per lane and access: the widest; wider rows only cost registers
ALIGNED_CHANNELS = 16  # Triton knows a stride to be aligned when it is divisible by 16
NUM_WARPS = 1  # channels are independent: with one warp a program has no barriers
PARTS = (1, 2, 4)  # blocks of the full width, a half, a quarter: narrower ones make more programs

# Rows in flight of the linear scan, by part of the full width; a row of full width is 4 registers a lane.
FORWARD_ROWS = {1: 16, 2: 32, 4: 64}  # x: 64 registers
GATED_FORWARD_ROWS = {1: 16, 2: 32, 4: 32}  # x and the gates: 128, 128 and 64
BACKWARD_ROWS = {1: 12, 2: 18, 4: 24}  # g and h: 96, 72 and 48
GATED_BACKWARD_ROWS = {1: 8, 2: 16, 4: 16}  # g, h and the gates: 96, 96 and 48
SHORT_ROWS = 4  # the rows that are left go so many at a time in narrow and complex blocks: masks take registers
SHORT_CARRIES = 16  # carries are few, and mostly rows that are left: one wait for so many

# Rows in flight of the nonlinear recurrence, by bytes of the state.
RNN_FORWARD_ROWS = {4: 12, 8: 8}  # x
RNN_BACKWARD_ROWS = {4: 7, 8: 4}  # x and g; a block's recomputed h and slopes are in registers too

# The nonlinear recurrence in chains, parallel in time: `rnn_scan_chains.py`. Where no step saturates, two trajectories
# come closer by a factor of exp(-forgets) a step. Their difference fades out, to the last bit, in FADES / forgets rows:
# 16.6 until it is rounding (36.7 in float64), the rest until 10,000 channels have met, as simulated. Steps of which
# a share s saturates take 1 / (1 - s) times as long; s is 0.4 for inputs of standard deviation 1, and 0.75 for 3. What
# follows is in multiples of those rows.
FADES = {4: 24.0, 8: 44.0}  # by bytes of the state
WARM_UP = 2.0  # s up to 0.5 needs no repair
ROUNDS = 2  # each makes the warm-ups longer by a chunk, and costs a launch
REACH = 3.5  # warm-up and rounds together, where sequences are long enough: s up to 0.71
CHUNK, LONG_CHUNK = 0.75, 2.0  # at least; short ones hide latency, long ones read less twice
WORTH = 2.7  # of the sequence, at least: warm-up and rounds then reach back 1.5, which covers s up to 0.35
MAX_WARM_UP = 1 / 6  # of a sequence: all that is lost if every guess is wrong, as the fallback goes on from the rounds
MAX_REACH = 1 / 5  # of a sequence, for a chunk that only has to reach further: two rounds leave 0.23 of it to gain
MEMORY_BOUND = 7000  # numbers of a tensor, per row in which differences fade out, from which on short chunks of a cheap
# act wait for an H100's memory
MIN_CHUNK = 256  # rows: what the fallback waits for at the start of a chunk is then less than a tenth
CARRY_ROWS = 8  # summaries of the adjoint that are read at a time: three rows each
CHAIN_PROGRAMS = 8  # per multiprocessor: two chains for each scheduler, which wait for latency most of the time
MIN_CHAINED = 2048  # rows: of shorter sequences the launches take longer than the chain

# Steps in flight of the fused read-out. Inputs and outputs of a step are scalars: a register of every lane each.
READOUT_SCALARS = 16  # forward: numbers of x, in 16 steps of one input
READOUT_STEPS = 2  # forward: never fewer, so that two steps share one wait for their loads
READOUT_BACKWARD_STEPS = 4  # x and g; a block's recomputed h and slopes are in registers too
READOUT_FEATURES = 8  # inputs and outputs together, up to which so many steps fit beside tanh without spilling

# Splitting time.
MAX_CHAIN = 256  # rows of the longest chain left whole: two more launches would take longer
FOLDED_CARRIES = 15  # summaries that a replay adds up by itself: a few loads, and no launch
CHUNK_STEP = 64  # chunks are multiples of this many rows, which the narrowest blocks have in flight
MAX_CHUNKS = 256  # of a segment: their carries are one chain
SPLIT_PROGRAMS = 1.5  # programs per multiprocessor that chunks should make
BUSY_PROGRAMS = 2  # programs per multiprocessor from which on more chunks only make more carries
# All that a segment reads and writes, with its summaries (less than one row in eight), fits the 40 MB of L2 of an A100
# (H100: 50, B200: 126, MI300X: 256 in its last level), where the replay finds what the summaries read.
SEGMENT_BYTES = 36_000_000
MANY_SEGMENTS = 4  # a sequence of more has chunks as short as fills the device
SHORT_CHUNK = 12  # rows: in bfloat16 the summaries of such chunks are half a number per element
SHORT_STEP = 4  # short chunks are multiples of this
RESIDENT_PROGRAMS = 32  # one-warp programs that a multiprocessor holds (compute capability 8.0 and 9.0)

# Sweeps over models.
UNIT_STEP = 8  # units come in eights, so that few widths need a compilation of their own
MAX_SINGLE_UNITS = 16  # wider models go by groups of units, 16 bytes each: a short program compiles in seconds
MAX_STATE_WORDS = 64  # of a thread's 255 registers, those that hold states
SHARED_STATE_WORDS = 16  # states so few that two sequences share a thread and its coefficients
RESIDENT_WORDS = 64  # coefficients so few that they are loaded once and stay
MAX_PER_THREAD = 2  # sequences of a thread
MAX_SWEEP_CHANNELS = 8  # inputs or outputs: each is a number per step in registers
MAX_SWEEP_ROWS = 8  # steps of a block of time
SWEEP_ROW_WORDS = 384  # wide models leave registers for fewer steps
SWEEP_WARPS = 4  # a warp is a sequence
SWEEP_ROUNDS = 8  # sequences a program walks in turn: the paper's sweep at m = 64 makes 8,400 programs

# Dense recurrences.
MAX_DENSE_BLOCK = 128  # a matrix up to this size is one tile: 64 registers a thread in float32, 128 in float64
DENSE_BLOCK = 64  # tile of a wider one
MAX_DENSE_CHANNELS = 256  # the widest whose matrix, or half of it, stays in registers
RESIDENT_DENSE_WORDS = 144  # registers of a thread for the matrix: the rest of a step needs the others
DENSE_WARPS = 8  # of 255 registers a thread: all that an NVIDIA multiprocessor has


class Channels(NamedTuple):
    """How channels are laid over programs."""

    block_d: int  # channels of a block
    num_blocks: int
    masked: bool  # whether the last block has lanes without a channel
    part: int = 1  # of the full width, one of `PARTS`: half the width leaves registers for twice the rows


class Dense(NamedTuple):
    """How a program of a dense recurrence holds its matrix."""

    BLOCK: int  # rows and columns of a tile
    BLOCKS: int  # tiles along each axis
    RESIDENT: int  # tiles in registers, the first ones; the others are read in every step
    PACKED: bool  # whether a word of a tile holds two numbers, so that there are half as many tiles
    num_warps: int


class Step(NamedTuple):
    """How one step of a dense recurrence is laid over programs."""

    TILE_B: int  # sequences of a program
    TILE_N: int  # channels of a program
    TILE_K: int  # terms of the product at a time
    num_warps: int


# The fewest sequences that `tl.dot` takes; few channels, so that many programs share the reading of the matrix.
STEP_SHAPE = Step(16, 32, 32, 4)


class DenseSweep(NamedTuple):
    """How a sweep over dense models goes through its sequences, see `kernels.dense_perturbation`."""

    PAIR: int  # sequences side by side
    ROWS: int  # steps whose inputs are loaded together
    SEQUENCES: int  # of a program


# Two chains hide each other's sums over threads. 256 sequences pay for the reading of a matrix, and leave 33,000
# programs at the paper's size (12,800 sequences, 660 models).
DENSE_SWEEP = DenseSweep(2, 2, 256)


class Chunks(NamedTuple):
    """How time is laid over programs and launches."""

    length: int  # rows of a chunk, which has a program of its own
    segment: int  # rows that are walked through all phases before the next: at most those that the L2 holds


class Span(NamedTuple):
    """Steps [begin, end) of a scan, in chunks; those of one segment."""

    begin: int
    end: int
    chunk_length: int

    @property
    def num_chunks(self) -> int:
        """Chunks, of which the last may be shorter."""
        return int(triton.cdiv(self.end - self.begin, self.chunk_length))


def spans(plan: Chunks, rows: int) -> list[Span]:
    """The segments of a sequence, in the order of the recurrence."""
    return [Span(begin, min(begin + plan.segment, rows), plan.length) for begin in range(0, rows, plan.segment)]


def state_type(states: Any) -> Any:
    """Triton's name for the dtype of a tensor of states."""
    return tl.float64 if states.element_size() == 8 else tl.float32


def has_shared_gates(decay: Any, x: Any) -> bool:
    """Whether a decay is one number per step for all channels of x."""
    return decay.ndim == 3 and decay.shape[2] < x.shape[2]


def has_aligned_rows(x: Any) -> bool:
    """Whether Triton knows every row of a (B, T, D) tensor to begin at a multiple of 16 bytes: it looks at whether an
    address is divisible by 16, and at every stride.
    """
    stride_b, stride_t, stride_d = x.stride()
    counts = (x.shape[2], stride_b, stride_t)
    return stride_d == 1 and x.data_ptr() % VECTOR_BYTES == 0 and all(n % ALIGNED_CHANNELS == 0 for n in counts)


def channels(channels: int, element_size: int, *, part: int = 1, pair_lanes: int = 0, aligned: bool = True) -> Channels:
    """Blocks of channels: 16-byte accesses, or a `part` of that, where rows are aligned, otherwise two numbers a lane.

    `pair_lanes`, of pairs, is how many lanes a warp has: each has two numbers at least. Where rows are not aligned,
    every number has an address of its own, and more than two a lane spill.
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
    """Blocks of channels and chunks of time, for `sequences` sequences of `rows` rows of `width` channels.

    `streams` is how many numbers per element the pass reads and writes. `pair_lanes` and `aligned` as for `channels`,
    the latter as `has_aligned_rows` says of all that is read.

    Splitting time reads an input twice. So it happens only where even the narrowest blocks leave multiprocessors
    without a program. Packed sequences stay whole: the host does not know their lengths.

    1. 16 chunks, if they keep the device busy: their carries cost no launch.
    2. Otherwise more, whose carries one launch walks. Forward without gates, where carries weigh most: at most
       sqrt(rows), which balances the two sequential walks, and at most what keeps the device busy twice over.
    3. More than four segments: as many programs as the device holds, each with a short chunk.
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
    """The blocks of channels with the most rows in flight: for carries, few chains that the device waits for."""
    return _blocks(width, element_size, pair_lanes)[-1]


def _blocks(width: int, element_size: int, pair_lanes: int, aligned: bool = True) -> list[Channels]:
    """Every width of blocks that a scan may have, the widest first."""
    parts = [part for part in PARTS if part == 1 or (aligned and _divides(width, element_size, part, pair_lanes))]
    return [channels(width, element_size, part=part, pair_lanes=pair_lanes, aligned=aligned) for part in parts]


def _balanced(rows: int) -> int:
    """Chunks for which the walk over the rows of one and the walk over all carries are shortest together."""
    return math.isqrt(rows)


def _divides(width: int, element_size: int, part: int, pair_lanes: int) -> bool:
    """Whether blocks may have that part of the full width: aligned rows, one number a lane or more."""
    block_d = LANES * VECTOR_BYTES // element_size // part
    return part == 1 or (width % ALIGNED_CHANNELS == 0 and element_size <= 4 and block_d >= max(LANES, 2 * pair_lanes))


def _busy(blocks: list[Channels], chains: int, programs: float) -> Channels:
    """The widest blocks that make at least `programs` programs, or the narrowest."""
    return next((block for block in blocks if chains * block.num_blocks >= programs), blocks[-1])


def chains(
    width: int, sequences: int, element_size: int, num_sms: int, *, pair_lanes: int = 0, aligned: bool = True
) -> Channels:
    """Blocks of channels for chains that cannot be split, narrowed until half the multiprocessors have one.

    A warp issues one instruction per cycle at the most, for all its channels in turn, and reads as many rows ahead as
    its registers hold. So fewer channels mean shorter steps and more rows. `pair_lanes` as for `channels`.
    """
    # With eight 16-bit numbers a lane, rows ahead spill.
    least = max(LANES, 2 * pair_lanes)
    full = max(least if pair_lanes else 0, min(channels(width, element_size, aligned=aligned).block_d, 4 * LANES))
    block_d = full
    while block_d > least and 2 * sequences * triton.cdiv(width, block_d) < num_sms:
        block_d //= 2
    return Channels(block_d, triton.cdiv(width, block_d), width % block_d != 0, 2 if block_d < full else 1)


class ForwardChains(NamedTuple):
    """How the forward walks of a nonlinear recurrence are laid over time."""

    chunks: int  # of each sequence at most
    long_fade: float  # where differences fade out in fewer rows, chunks are long


def forward_chains(
    rows: int,
    sequences: int,
    block: Channels,
    element_size: int,
    nonlinearity: str,
    num_sms: int,
    *,
    paired: bool = False,
) -> ForwardChains | None:
    """Chunks of sequences of `rows` rows (packed: on average), or None where one program walks a whole sequence.

    Chains pay where even the narrowest blocks leave half the multiprocessors without a program, and act drives every
    state on: relu holds states for as long as inputs are negative. What is read twice and does not stay in the L2 costs
    a cheap step more than long chunks do. In float64, pairs and other acts than cheap ones stay whole: gfx942 has too
    few scalar registers for their constants.
    """
    chunks = time_chunks(rows, sequences, block, num_sms)
    act = properties(nonlinearity)
    fits = element_size < 8 or (act.is_cheap and not paired)
    if chunks == 1 or not (fits and act.is_contracting and act.is_restoring):
        return None
    numbers = rows * sequences * block.num_blocks * block.block_d
    long = act.is_cheap and numbers * element_size > SEGMENT_BYTES
    return ForwardChains(chunks, numbers / MEMORY_BOUND if long else 0.0)


def time_chunks(rows: int, sequences: int, block: Channels, num_sms: int) -> int:
    """Chunks of each sequence that a nonlinear recurrence is cut into; 1 where programs are many or rows are few."""
    programs = sequences * block.num_blocks
    if rows < MIN_CHAINED or 2 * programs > num_sms:
        return 1
    return min(CHAIN_PROGRAMS * num_sms // programs, rows // MIN_CHUNK)


def chunk_length(rows: int, sequences: int, block: Channels, num_sms: int) -> int | None:
    """Rows of a chunk of the adjoint, whose walks are exact and so may be cut anywhere; None where it stays whole."""
    chunks = time_chunks(rows, sequences, block, num_sms)
    return None if chunks == 1 else int(triton.cdiv(rows, chunks))


def units(width: int, features: int, element_size: int, *, pair_lanes: int = 0) -> Channels:
    """Blocks of recurrent units, each with `features` coefficients and as many gradients in registers.

    A lane has 16 bytes of units, less where features are many. `pair_lanes`, of pairs, is how many threads a warp has:
    each has two numbers at least.
    """
    least = max(LANES, 2 * pair_lanes)
    a_lane = max(1, VECTOR_BYTES // element_size // triton.cdiv(features, 4))
    block_d = max(least, min(LANES * triton.next_power_of_2(a_lane), triton.next_power_of_2(width)))
    return Channels(block_d, triton.cdiv(width, block_d), width % block_d != 0)


def readout_forward_rows(inputs: int) -> int:
    """Steps in flight of a fused read-out: a power of 2 up to 16, which divides a chunk (`ops/rnn_readout.py`)."""
    return max(READOUT_STEPS, READOUT_SCALARS // triton.next_power_of_2(inputs))


def readout_backward_rows(features: int, element_size: int, *, paired: bool) -> int:
    """As `readout_forward_rows`, of the backward pass, by inputs and outputs together.

    Half the steps where features are many, which for pairs, two units a lane at least, are half as many. In float64,
    where every number is two registers, one step.
    """
    if element_size > 4:
        return 1
    few = READOUT_FEATURES // 2 if paired else READOUT_FEATURES
    return READOUT_BACKWARD_STEPS if features <= few else READOUT_BACKWARD_STEPS // 2


def dense(channels: int, element_size: int, lanes: int = LANES) -> Dense | None:
    """Tiles of a dense recurrence's matrix, or None where a step needs many programs.

    `element_size` is that of the weight: bfloat16 stays packed where the registers cannot hold it as float32. Small
    matrices take fewer warps, whose sums need fewer barriers. `lanes` is how many a warp has.
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


def forward_rows(
    block: Channels, chunk_length: int, *, gated: bool, is_complex: bool, summed: bool = False
) -> dict[str, int]:
    """Rows in flight of a linear scan's forward walk, and how many at a time of those that are left, ROWS - 1 at most.

    `summed`: the rows are summaries, of which there are few.
    """
    rows = _rows(GATED_FORWARD_ROWS if gated else FORWARD_ROWS, block, chunk_length)
    short = SHORT_CARRIES if summed and not gated and not is_complex else SHORT_ROWS
    return dict(ROWS=rows, SHORT=min(short, rows - 1) if block.part > 1 or is_complex else rows - 1)


def backward_rows(block: Channels, chunk_length: int, *, gated: bool, is_complex: bool) -> dict[str, int]:
    """As `forward_rows`, of the backward walk, which may leave ROWS rows."""
    rows = _rows(GATED_BACKWARD_ROWS if gated else BACKWARD_ROWS, block, chunk_length)
    return dict(ROWS=rows, SHORT=SHORT_ROWS if block.part > 1 or is_complex else rows)


def _rows(table: dict[int, int], block: Channels, chunk_length: int) -> int:
    """Rows in flight; those of full width where a chunk has fewer."""
    return table[block.part] if chunk_length >= table[block.part] else table[1]


def rnn_rows(full: int, block: Channels, nonlinearity: str) -> int:
    """Rows in flight of the nonlinear recurrence, `full` for blocks of full width, twice as many for narrower ones.

    Not of tanh: its step takes so long that its rows arrive in time, and twice as many take a minute to compile. Nor
    where rows are masked, which takes more scalar registers than gfx942 has.
    """
    return full * block.part if properties(nonlinearity).is_cheap and not block.masked else full


def split_carries(carries: int) -> int:
    """Chunk length for a chain of carries: the square root balances the two levels that are left."""
    return carries if carries <= MAX_CHAIN else math.isqrt(carries - 1) + 1


class Increments(NamedTuple):
    """How increments are laid over programs, see `kernels.memory_increment`."""

    BLOCK_N: int  # inputs
    BLOCK_I: int  # units
    num_warps: int


def increments(units: int) -> Increments:
    """Blocks of inputs and units of one warp: two numbers a lane, independent chains that hide each other's latency."""
    block_i = min(2 * LANES, triton.next_power_of_2(units))
    return Increments(2 * LANES // block_i, block_i, NUM_WARPS)


class Sweep(NamedTuple):
    """How a sweep over models and sequences is laid over programs, see `kernels.perturbation`."""

    GROUPS: int  # of units
    GROUP: int  # units of a group
    RESIDENT: bool  # whether coefficients stay in registers
    BLOCK_K: int  # models of a program
    BLOCK_N: int  # sequences side by side
    PER_THREAD: int  # of such blocks, side by side
    ROWS: int  # steps of a block of time
    ROUNDS: int  # blocks of sequences that a program walks in turn
    num_warps: int


def sweep(units: int, inputs: int, outputs: int, element_size: int, cost: int) -> Sweep | None:
    """Launch shape for models of `units` units, or None where a thread's registers cannot hold their states.

    Lanes are models, warps are sequences. Narrow models take several sequences per thread: independent chains, and
    coefficients that are loaded once for all of them. `cost` is the most expensive nonlinearity's.
    """
    padded, size = triton.cdiv(units, UNIT_STEP) * UNIT_STEP, element_size // 4
    words = padded * size
    if words > MAX_STATE_WORDS or max(inputs, outputs) > MAX_SWEEP_CHANNELS:
        return None
    group = 1 if padded <= MAX_SINGLE_UNITS else VECTOR_BYTES // element_size
    per_thread = max(1, min(MAX_PER_THREAD, SHARED_STATE_WORDS // words))
    step_words = size**2 * cost
    rows = max(1, min(MAX_SWEEP_ROWS, SWEEP_ROW_WORDS // (words * step_words)) // max(inputs, outputs))
    resident = words * (2 + inputs + outputs) <= RESIDENT_WORDS
    return Sweep(padded // group, group, resident, LANES, SWEEP_WARPS, per_thread, rows, SWEEP_ROUNDS, SWEEP_WARPS)
