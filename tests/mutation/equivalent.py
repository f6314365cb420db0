"""Mutants that change nothing anybody could see, and why.

A name stands for every place of its file where it says the same.
"""

WIDE = "the other factor is declared tl.int64, and so is the product"
WIDE_SUM = "what it is compared or added with is tl.int64, and so is the result"
SHORT = "it numbers rows, or segments, of a chunk, which 32 bits hold; no stride is multiplied before it is added"
SHAPE = "it chooses the shape of a launch, on which no result depends; `cofm kernels` watches what that costs"
SPEED = "rows take a longer way to the same numbers"
NEVER_LIVE = "the row is one more, which is never live: its mask is empty"
NOT_EMPTY = "kernels are launched for T >= 1 alone"
AT_ZERO = "both branches are the same number at 0"
SPARE = "the launch has spare programs, whose results nobody reads"
RACE = "a fence between threads: without it one might read too early, which no test can bring about at will"
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
    (_KERNELS + "gated_rnn.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "gated_rnn.py", "blocks.to(tl.int64) -> blocks"): SHORT,
    (_KERNELS + "gated_rnn.py", "gates.strength == \"share\" -> (gates.strength != 'share')"): SHAPE,
    (_KERNELS + "gated_rnn.py", "min -> max"): SHAPE,
    (_KERNELS + "gates.py", "z < 0 -> (z <= 0)"): AT_ZERO,
    (_KERNELS + "linear_scan_backward.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_backward.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_backward.py", "tl.maximum -> tl.minimum"): SPEED,
    (_KERNELS + "linear_scan_forward.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_forward.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_summary.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "linear_scan_summary.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "linear_scan_tile.py", "first.to(tl.int64) -> first"): WIDE,
    (_KERNELS + "mode_coefficients.py", "tl.arange(0, PIECES).to(tl.int64) -> tl.arange(0, PIECES)"): WIDE,
    (_KERNELS + "rnn_readout.py", "(num_chunks - 1 - later).to(tl.int64) -> num_chunks - 1 - later"): WIDE,
    (_KERNELS + "rnn_scan.py", "chunks - 1 -> (chunks)"): SPARE,
    (_KERNELS + "rnn_scan.py", "max -> min"): SHAPE,
    (_KERNELS + "rnn_scan_chains.py", "length.to(tl.int64) -> length"): WIDE,
    (_KERNELS + "rnn_scan_chains.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rnn_scan_summary.py", "sequence.to(tl.int64) -> sequence"): WIDE,
    (_KERNELS + "rnn_scan_walk.py", "ROWS - 1 -> (ROWS)"): NEVER_LIVE,
    (_KERNELS + "rows.py", "(1 - tl.minimum(pid, 0)).to(tl.int64) -> 1 - tl.minimum(pid, 0)"): WIDE,
    (_KERNELS + "rows.py", "tl.load(starts_ptr + sequence).to(tl.int64) -> tl.load(starts_ptr + sequence)"): WIDE_SUM,
    (_KERNELS + "rows.py",
     "tl.load(starts_ptr + sequence + 1).to(tl.int64) -> tl.load(starts_ptr + sequence + 1)"): WIDE_SUM,
    (_JIT + "forward.py", "store(q, wrong + size, guesses, False) -> pass"): CHECKED,
    (_JIT + "rnn_scan.py", "fence() -> pass"): RACE,
    (_JIT + "gated_rnn.py", "fence() -> pass"): RACE,
    (_JIT + "rnn_readout.py", "fence() -> pass"): RACE,
    (_JIT + "linear_scan.py", "fence() -> pass"): RACE,
    (_JIT + "paired_rnn_scan.py", "fence() -> pass"): RACE,
}  # fmt: skip
