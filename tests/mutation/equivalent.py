"""Mutants that change nothing anybody could see, and why.

A name stands for every place of its file where it says the same.
"""

WIDE = "the other factor is declared tl.int64, and so is the product"
WIDE_SUM = "what it is compared or added with is tl.int64, and so is the result"
SHORT = "it numbers rows of a chunk, which 32 bits hold"
SHAPE = "it chooses the shape of a launch, on which no result depends; `cofm kernels` watches what that costs"
SPEED = "a longer way, or other blocks, to the same numbers"
NEVER_LIVE = "the row is one more, which is never live: its mask is empty"
NOT_EMPTY = "kernels are launched for T >= 1 alone"
AT_LIMIT = "at the limit itself both ways are right"
NOT_ZERO = "it is only looked at where it is not 0"
LAST_TERM = "it changes the last term of a series, by less than a rounding of the sum"
SPARE = "the launch has spare programs, whose results nobody reads"
SPARE_ROW = "the row read ahead lies in the same allocation, and nobody uses it"
ROOM = "the array has more room than is used"
ONE_INPUT = "models wider than a block have one input in a program, and it is there"
ALL_HOLD_IT = "every segment holds what is stored, and where time lies in chunks there are several"
RESOLVED = "PyTorch resolves conjugates before it calls an operator"
COPIES = "compiled code takes any strides: the copy spares compiling it once more"
COMPILED = "it hides an alignment from the compiler, and leaves the numbers as they are"
SYMMETRIC = "errors count by their size alone"
RACE = "a fence between threads: without it one might read too early, which no test can bring about at will"
NAMED = "LLVM gives an intrinsic the name that its types ask for"
CHECKED = "a guess that is not right is found, and its part runs again: the same bits, later"

# By file and `Mutant.name`.
_KERNELS = "cofm_triton/kernels/"
_JIT = "cofm_triton/cpu/jit/"
_BLOCKED = "cofm_triton/cpu/blocked/"
EQUIVALENT: dict[tuple[str, str], str] = {
    (_KERNELS + "dense_rnn.py", "tl.arange(0, BLOCK).to(tl.int64) -> tl.arange(0, BLOCK)"): WIDE,
    (_KERNELS + "dense_rnn.py", "tl.program_id(0).to(tl.int64) -> tl.program_id(0)"): WIDE,
    (_KERNELS + "dense_rnn.py", "T > 0 -> (T >= 0)"): NOT_EMPTY,
    (_KERNELS + "dense_rnn.py", "tl.load(resets_row, mask=T > 0, other=0) -> tl.load(resets_row)"): NOT_EMPTY,
    (_KERNELS + "elementary.py", "_TERMS - 1 -> (_TERMS)"): LAST_TERM,
    (_KERNELS + "elementary.py", "2 * _ATAN_TERMS + 1 -> (2 * _ATAN_TERMS)"): LAST_TERM,
    (_KERNELS + "elementary.py", "tl.abs(x) > 1 -> (tl.abs(x) >= 1)"): AT_LIMIT,
    (_KERNELS + "elementary.py", "x > 0 -> (x >= 0)"): NOT_ZERO,
    (_KERNELS + "gated_rnn.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "gated_rnn.py", "blocks.to(tl.int64) -> blocks"): SHORT,
    (_KERNELS + "gated_rnn.py", "gates.strength == \"share\" -> (gates.strength != 'share')"): SHAPE,
    (_KERNELS + "gated_rnn.py",
     "min(block.block_d, per_lane * max(LANES, pair_lanes)) -> max(block.block_d, per_lane * max(LANES, pair_lanes))"):
        SHAPE,
    (_KERNELS + "gates.py", "z < 0 -> (z <= 0)"): AT_LIMIT,
    (_KERNELS + "linear_scan.py",
     "decay.is_complex() and not x.is_complex() -> (not (decay.is_complex() and (not x.is_complex())))"): SPEED,
    (_KERNELS + "linear_scan.py", "tensor.resolve_conj() -> tensor"): RESOLVED,
    (_KERNELS + "linear_scan.py",
     "max(x.element_size(), decay.element_size()) -> min(x.element_size(), decay.element_size())"): SHAPE,
    (_KERNELS + "linear_scan_backward.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_backward.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_backward.py", "tl.maximum(n - 1, 0) -> tl.minimum(n - 1, 0)"): SPEED,
    (_KERNELS + "linear_scan_forward.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_forward.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_summary.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_summary.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_summary.py", "segment == 0 -> (segment != 0)"): ALL_HOLD_IT,
    (_KERNELS + "linear_scan_tile.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "memory_increment.py", "tl.load(place, mask=there, other=0.0) -> tl.load(place)"): ONE_INPUT,
    (_KERNELS + "mode_coefficients.py", "tl.arange(0, PIECES).to(tl.int64) -> tl.arange(0, PIECES)"): WIDE,
    (_KERNELS + "rnn_readout.py", "(num_chunks - 1 - later).to(tl.int64) -> (num_chunks - 1 - later)"): WIDE,
    (_KERNELS + "rnn_scan.py", "chunks - 1 -> (chunks)"): SPARE,
    (_KERNELS + "rnn_scan.py", "max(1, sequences) -> min(1, sequences)"): SHAPE,
    (_KERNELS + "rnn_scan.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rnn_scan_chains.py", "length.to(tl.int64) -> length"): WIDE,
    (_KERNELS + "rnn_scan_chains.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rnn_scan_chains.py", "k + 1 -> (k)"): SPARE_ROW,
    (_KERNELS + "rnn_scan_chains.py",
     "store_row(plan_ptr + i * sequences + sequence_row, nothing, mask, MASKED=MASKED) -> pass"): CHECKED,
    (_KERNELS + "rnn_scan_summary.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rnn_scan_walk.py", "ROWS - 1 -> (ROWS)"): NEVER_LIVE,
    (_KERNELS + "rnn_scan_walk.py", "blocks == warm_up -> (blocks != warm_up)"): CHECKED,
    (_KERNELS + "rows.py", "not ALIGNED -> (not (not ALIGNED))"): COMPILED,
    (_KERNELS + "rows.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rows.py", "(1 - tl.minimum(pid, 0)).to(tl.int64) -> (1 - tl.minimum(pid, 0))"): WIDE,
    (_KERNELS + "rows.py", "tl.load(starts_ptr + sequence).to(tl.int64) -> tl.load(starts_ptr + sequence)"): WIDE_SUM,
    (_KERNELS + "rows.py",
     "tl.load(starts_ptr + sequence + 1).to(tl.int64) -> tl.load(starts_ptr + sequence + 1)"): WIDE_SUM,
    (_JIT + "bits.py", "isinstance(radicand, Vector) -> (not (isinstance(radicand, Vector)))"): NAMED,
    (_JIT + "code_cache.py",
     "time.time() - path.stat().st_mtime > STALE_SECONDS -> (time.time() - path.stat().st_mtime >= STALE_SECONDS)"):
        AT_LIMIT,
    (_JIT + "dense_perturbation.py",
     "F.pad(columns, (0, 0, 0, padding)).to(inputs).contiguous() -> F.pad(columns, (0, 0, 0, padding)).to(inputs)"):
        COPIES,
    (_JIT + "dense_perturbation.py", "cells.offset.to(inputs).contiguous() -> cells.offset.to(inputs)"): COPIES,
    (_JIT + "forward.py", "store(q, wrong + size, guesses, False) -> pass"): CHECKED,
    (_JIT + "gated_step.py",
     "x.shape[0] * self._panels.shape[0] <= MAX_PRODUCTS -> (x.shape[0] * self._panels.shape[0] < MAX_PRODUCTS)"):
        AT_LIMIT,
    (_JIT + "memory_increment.py", "value.contiguous() -> value"): COPIES,
    (_JIT + "memory_increment.py",
     "properties(name).linear_radius >= SMALL -> (properties(name).linear_radius > SMALL)"): AT_LIMIT,
    (_JIT + "memory_increment.py",
     "min(_LANES, -(-inputs // _ALIGNED) * _ALIGNED) -> max(_LANES, -(-inputs // _ALIGNED) * _ALIGNED)"): SPEED,
    (_JIT + "paired_rnn_scan.py", "channels <= MAX_HELD -> (channels < MAX_HELD)"): SPEED,
    (_JIT + "perturbation.py", "cells.offset.to(inputs.dtype).contiguous() -> cells.offset.to(inputs.dtype)"): COPIES,
    (_JIT + "perturbation_gradient.py",
     "min(_LANES, -(-len(inputs) // 16) * 16) -> max(_LANES, -(-len(inputs) // 16) * 16)"): SPEED,
    (_JIT + "rnn_readout.py", "min(chunk, length) -> max(chunk, length)"): ROOM,
    (_JIT + "rnn_scan.py", "t + 1 -> (t)"): CHECKED,
    (_JIT + "streams.py", "builder.fence(\"seq_cst\") -> pass"): RACE,
    (_JIT + "streams.py", "_align_stack(builder) -> pass"): SPEED,
    (_JIT + "streams.py", "builder.asm(nothing, \"\", \"r\", (place,), True) -> pass"): SPEED,
    (_JIT + "streams.py",
     "store.set_metadata(\"nontemporal\", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])) -> pass"):
        SPEED,
    **{(f"{_JIT}{name}.py", "fence() -> pass"): RACE
       for name in ("forward", "gated_rnn", "linear_scan", "paired_rnn_scan", "rnn_scan")},
    (_BLOCKED + "memory_increment.py",
     "properties(name).linear_radius >= SMALL -> (properties(name).linear_radius > SMALL)"): AT_LIMIT,
    (_BLOCKED + "memory_increment.py", "z.abs() < SMALL -> (z.abs() <= SMALL)"): AT_LIMIT,
    (_BLOCKED + "memory_increment.py", "now % LOOK_EVERY -> (now // LOOK_EVERY)"): SPEED,
    (_BLOCKED + "perturbation.py", "inputs.device.type == \"cpu\" -> (inputs.device.type != 'cpu')"): SPEED,
    (_BLOCKED + "perturbation.py",
     "max(1, min(_MAX_LANES, len(inputs), numbers // units))"
     " -> min(1, min(_MAX_LANES, len(inputs), numbers // units))"): SPEED,
    (_BLOCKED + "perturbation.py",
     "torch.stack(columns, 1) + offset - targets[:, k].T -> (targets[:, k].T - (torch.stack(columns, 1) + offset))"):
        SYMMETRIC,
}  # fmt: skip
