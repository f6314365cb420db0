"""Launch shapes: which program owns what, how many rows it has in flight, and when time is split.

All of them follow from the shape of the problem and the number of multiprocessors, never from an autotuner: a new
length or batch size costs no compilation and no trial runs. The numbers stand below, each with its reason; the rules
that use them are the functions of this file.

Names: a lane is a thread of a warp; rows in flight are loads issued before the first of them is used; a chain is a walk
along time that nothing splits; a chunk is a part of a chain that has a program of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cofm_triton.step.activations import properties

# Rows of channels.
LANES = 32  # of a warp on NVIDIA GPUs
VECTOR_BYTES = 16  # per lane and access: the widest; wider rows only cost registers
ALIGNED_CHANNELS = 16  # Triton knows a stride to be aligned when it is divisible by 16
NUM_WARPS = 1  # channels are independent: with one warp a program has no barriers

# Rows of the linear scan in registers at once, of all tensors that are read together.
WALK_ROWS = 24  # of one warp, 16 bytes a lane each
TILE_WORDS = 64  # of segments, in 32-bit words of a lane
MAX_WALK, MAX_SEGMENT = 16, 32  # rows: Triton takes more than the square of their number to compile
SHORT_ROWS = 4  # rows that are left go so many at a time in segments and of complex numbers: masks take registers

# Rows in flight of the nonlinear recurrence, by bytes of the state.
RNN_FORWARD_ROWS = {4: 12, 8: 8}  # x
WIDE_CHAIN_ROWS = 4  # in chains of float64 pairs or other acts than cheap ones, half of that for both: gfx942 has no
# more scalar registers
RNN_BACKWARD_ROWS = {4: 7, 8: 4}  # x and g; a block's recomputed h and slopes are in registers too
RNN_GATED_FORWARD_ROWS = {4: 8, 8: 4}  # x and rates
RNN_GATED_BACKWARD_ROWS = {4: 6, 8: 3}  # x, g and rates; h and slopes besides

# Rows in flight of the gated recurrence, by bytes of the state, and channels of a lane. Backward, a block's x, g,
# logits and states are in registers together: with four channels nothing spills but turns, and a multiprocessor holds
# half as many programs.
GATED_FORWARD_ROWS, GATED_FORWARD_LANE = {4: 8, 8: 2}, 4
GATED_BACKWARD_ROWS, GATED_BACKWARD_LANE = {4: 4, 8: 3}, 2

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
CACHED_BYTES = 36_000_000  # that the L2 of every GPU we name keeps: read a second time, they cost no memory traffic
MIN_CHUNK = 256  # rows: what the fallback waits for at the start of a chunk is then less than a tenth
CARRY_ROWS = 8  # summaries of the adjoint that are read at a time: three rows each
CHAIN_PROGRAMS = 8  # per multiprocessor: two chains for each scheduler, which wait for latency most of the time
MIN_CHAINED = 2048  # rows: of shorter sequences the launches take longer than the chain

# Steps in flight of the fused read-out. Inputs and outputs of a step are scalars: a register of every lane each.
READOUT_SCALARS = 16  # forward: numbers of x, in 16 steps of one input
READOUT_STEPS = 2  # forward: never fewer, so that two steps share one wait for their loads
READOUT_BACKWARD_STEPS = 4  # x and g; a block's recomputed h and slopes are in registers too
READOUT_FEATURES = 8  # inputs and outputs together, up to which so many steps fit beside tanh without spilling

# Sharing out time.
BUSY_PROGRAMS = 1.5  # per multiprocessor: from so many on, one warp walks a sequence
TILE_WARPS = 8  # of a program that walks segments of time side by side: their loads keep a multiprocessor busy
TILE_ROW_BYTES = (128, 64)  # of its rows, in the state's dtype: a line of L2, or, for more programs, half of one
SPLIT_BELOW = 6  # a sixth of the multiprocessors cannot draw half of the bandwidth: then even a second reading pays,
SPLIT_ROWS = 8192  # if it takes longer than the second launch
SPLIT_PROGRAMS = 2  # per multiprocessor, in chunks of time
FOLD_ROWS = 16  # summaries that one segment of a program adds up

# Coefficients of modes, and rows of the encoder.
MODES = 4  # of a program, and as many warps: a lane has the numbers of one mode, some sixty of float64
MODE_COLUMNS = 128  # of the encoder at once, four a lane
MODE_PIECES = 128  # of a gradient at once

# Numbers that do not see each other.
ELEMENTS, ELEMENT_WARPS = 1024, 4  # of a program: eight a lane, two accesses of 16 bytes

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
    part: int = 1  # of the full width: half the width leaves registers for twice the rows


class Tiles(NamedTuple):
    """How a linear scan is laid over programs, see `kernels.linear_scan_tile`."""

    block_d: int  # channels of a block
    num_blocks: int
    masked: bool  # whether the last block has lanes without a channel
    segments: int  # parts of time that a program walks side by side
    room: int  # rows that a lane can hold of one tensor
    num_warps: int
    num_chunks: int  # parts of time with programs of their own
    chunk_length: int


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


def channels(channels: int, element_size: int, *, pair_lanes: int = 0, aligned: bool = True) -> Channels:
    """Blocks of channels: 16-byte accesses where rows are aligned, otherwise two numbers a lane.

    `pair_lanes`, of pairs, is how many lanes a warp has: each has two numbers at least. Where rows are not aligned,
    every number has an address of its own, and more than two a lane spill.
    """
    aligned = aligned and channels % ALIGNED_CHANNELS == 0
    least = max(LANES, 2 * pair_lanes)
    full = max(LANES * VECTOR_BYTES // element_size if aligned else 2 * LANES, least)
    block_d = min(full, max(least, triton.next_power_of_2(channels)))
    return Channels(block_d, triton.cdiv(channels, block_d), channels % block_d != 0)


def layout(
    rows: int, sequences: int, width: int, element_size: int, num_sms: int,
    *, lanes: int = LANES, pairs: bool = False, packed: bool = False, aligned: bool = True,
) -> Tiles:  # fmt: skip
    """Channels and time of a linear scan, for `sequences` sequences of `rows` rows of `width` channels.

    `lanes` is how many a warp has, `aligned` is what `has_aligned_rows` says of all that is read.

    1. Channels enough: one warp walks a sequence.
    2. Otherwise time lies over the lanes and warps of a program. Every number is read once, in one launch.
    3. Few channels, and rows so many that it takes long: chunks of time have programs of their own. That reads an input
       twice, and takes a second launch. Packed sequences stay whole: the host does not know their lengths. So do
       float64 pairs, whose summaries spill.
    """
    block = channels(width, element_size, pair_lanes=lanes if pairs else 0, aligned=aligned)
    words = max(1, element_size // 4)
    if sequences * block.num_blocks >= BUSY_PROGRAMS * num_sms:
        return Tiles(*block[:3], 1, WALK_ROWS, NUM_WARPS, 1, rows)
    a_lane = 2 if pairs else 1
    widths = [row_bytes // max(4, element_size) for row_bytes in TILE_ROW_BYTES]
    block_d = next((w for w in widths if sequences * triton.cdiv(width, w) >= num_sms), widths[-1])
    block_d = min(block_d, max(widths[-1] // 2, triton.next_power_of_2(width)))
    num_blocks, segments = triton.cdiv(width, block_d), TILE_WARPS * lanes * a_lane // block_d
    chunk_length, programs = rows, sequences * num_blocks
    if not packed and SPLIT_BELOW * programs < num_sms and rows >= SPLIT_ROWS and a_lane * words < 4:
        chunks = min(triton.cdiv(SPLIT_PROGRAMS * num_sms, programs), FOLD_ROWS * segments)
        tile = segments * MAX_SEGMENT
        chunk_length = triton.cdiv(triton.cdiv(rows, chunks), tile) * tile
    # Twice the lanes need half the words; gfx942, which has them, has scalar registers for the addresses of few rows.
    room = TILE_WORDS * LANES**2 // (lanes**2 * a_lane * words)
    return Tiles(
        block_d, num_blocks, width % block_d != 0, segments, room, TILE_WARPS, triton.cdiv(rows, chunk_length),
        chunk_length,
    )  # fmt: skip


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
    rows: int  # in flight


def forward_chains(
    rows: int,
    sequences: int,
    block: Channels,
    element_size: int,
    nonlinearity: str,
    num_sms: int,
    *,
    paired: bool = False,
    resets: bool = False,
) -> ForwardChains | None:
    """Chunks of sequences of `rows` rows (packed: on average), or None where one program walks a whole sequence.

    Chains pay where even the narrowest blocks leave half the multiprocessors without a program, and act drives every
    state on: relu holds states for as long as inputs are negative. What is read twice and does not stay in the L2 costs
    a cheap step more than long chunks do.
    """
    chunks = time_chunks(rows, sequences, block, num_sms)
    act = properties(nonlinearity)
    if chunks == 1 or not (act.is_contracting and act.is_restoring):
        return None
    numbers = rows * sequences * block.num_blocks * block.block_d
    long = act.is_cheap and numbers * element_size > CACHED_BYTES
    in_flight = rnn_rows(RNN_FORWARD_ROWS[max(4, element_size)], block, nonlinearity, resets=resets, paired=paired)
    if element_size == 8 and (paired or not act.is_cheap):
        in_flight = WIDE_CHAIN_ROWS // (1 + (paired and not act.is_cheap))
    return ForwardChains(chunks, numbers / MEMORY_BOUND if long else 0.0, in_flight)


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


def forward_rows(tiles: Tiles, *, gates: int, is_complex: bool, with_resets: bool = False) -> dict[str, int]:
    """Rows of a segment of a linear scan's tile, forward, and of the tiles of what is left, at most ROWS - 1 rows.

    `gates` is how many numbers a lane reads for a gate: 0, 1, or 2 of a complex one that all channels share. Masks of
    resets take scalar registers of gfx942, as many as gates would take others; pairs with resets have half the rows, or
    sm_80 spills, and so have pairs of float64, on sm_90.
    """
    cut = with_resets and tiles.segments > 1
    halved = cut or tiles.room < TILE_WORDS // 2
    rows = _segment_rows(tiles, 1 + gates + cut, 4 if not is_complex else 1 if halved else 2)
    if tiles.segments > 1:
        return dict(ROWS=rows, SHORT=min(SHORT_ROWS, rows))
    return dict(ROWS=rows, SHORT=min(SHORT_ROWS, rows - 1) if is_complex else rows - 1)


def backward_rows(tiles: Tiles, *, gates: int, is_complex: bool, with_resets: bool = False) -> dict[str, int]:
    """As `forward_rows`, of the backward walk, which may leave ROWS rows.

    Eight of float64 gates spill on sm_90, and pairs with resets in the fewest: both have half.
    """
    wide_gates = gates > 0 and tiles.room < TILE_WORDS
    rows = _segment_rows(tiles, 2 + gates, 3 if is_complex else 2 if wide_gates else 4)
    if with_resets and is_complex and tiles.segments > 1 and rows == SHORT_ROWS:
        rows //= 2
    return dict(ROWS=rows, SHORT=min(SHORT_ROWS, rows) if tiles.segments > 1 or is_complex else rows)


def _segment_rows(tiles: Tiles, read: int, quarters: int) -> int:
    """Rows of which a lane can hold `read` tensors, in segments in so many quarters of the room.

    Products of pairs take registers of their own, and with a few more in use NVIDIA's compiler spills some to have 128.
    """
    room = tiles.room * quarters // 4 if tiles.segments > 1 else tiles.room
    rows = room // read // SHORT_ROWS * SHORT_ROWS
    if tiles.segments > 1:
        most = MAX_SEGMENT - SHORT_ROWS * tiles.masked  # masks take registers
        rows = min(rows, most, triton.next_power_of_2(triton.cdiv(tiles.chunk_length, tiles.segments)))
    return max(SHORT_ROWS, min(rows, MAX_WALK) if tiles.segments == 1 else rows)


def rnn_rows(full: int, block: Channels, nonlinearity: str, *, resets: bool = False, paired: bool = False) -> int:
    """Rows in flight of the nonlinear recurrence, `full` for blocks of full width, twice as many for narrower ones.

    Not of tanh: its step takes so long that its rows arrive in time, and twice as many take a minute to compile. Nor
    where rows are masked, or sequences cut, which takes more scalar registers than gfx942 has: pairs that are cut have
    fewer.
    """
    if resets and paired:
        return full * 3 // 4
    doubled = properties(nonlinearity).is_cheap and not block.masked and not resets
    return full * block.part if doubled else full


def gated_backward_rows(size: int, lanes: int, *, share: bool, turning: bool, resets: bool = False) -> int:
    """Rows in flight of the gated recurrence backward, of which h is read once: 3 are 7.33 elements of traffic.

    Gates that are shares of one another, and float64, have no more than 3; float64 that turns has registers for 2, and
    MI300X scalar registers for one less still, and in float32, where their masks take some, with resets.

    Args:
        size: bytes of the state.
        lanes: of a warp.
        share: whether gates are shares ("minlstm").
        turning: whether channels turn in pairs.
        resets: whether there are any.
    """
    if size == 8 and lanes > LANES:
        return 1 if share or turning else 2
    if size == 8 and turning:
        return 2
    rows = 3 if share else GATED_BACKWARD_ROWS[size]
    return rows - (resets and lanes > LANES)


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
