"""Linear scan, `h[t] = decay[t] * h[t-1] + x[t]`, forward and backward, whole or split in time.

Indices: b batch, s sequence, t time, d channel; x, h and their gradients are (B, T, D), contiguous or not, states are
(S, D). The decay is (D,), loaded once and never materialised over time, or, gated, (B, T, D) with strides of its own;
shared, it is one number per step for all channels. Complex tensors are real ones of twice as many channels; so are
pairs of real channels with a complex decay. States and decays are float32, float64 for float64 input.

A program owns a block of channels of one chunk of one sequence. A sequence is one chunk where batch and channels keep
the device busy. Otherwise time is split into chunks, in three phases:

1. summary (`linear_scan_summary.py`): the state after every chunk from a zero start;
2. carries (`linear_scan_carry.py`): the state after every chunk, a scan over chunks, which may split in turn. A few
   summaries are folded by the third phase, and need no launch;
3. replay (`linear_scan_forward.py`, `linear_scan_backward.py`): all rows, every chunk from its carry. A whole sequence
   is the replay of its only chunk.

The replay reads its input again, from L2: long sequences are walked in segments, each through all phases before the
next. A segment fits in L2 (`launch.SEGMENT_BYTES`), so under LRU the replay hits. Where parts of an L2 keep copies of
each other's lines, less than its whole size is left, and it may miss.

Traffic in elements per element: forward 2 (gated 3, shared 2), backward 3 (gated 5, shared 4).
Source: arXiv 2305.19190, Eq. (1) for linear sigma, and its adjoint; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

from cofm_triton.kernels.launch import (
    FOLDED_CARRIES,
    LANES,
    Channels,
    Chunks,
    Span,
    has_aligned_rows,
    has_shared_gates,
    layout,
    narrowest,
    spans,
    split_carries,
)
from cofm_triton.kernels.linear_scan_backward import launch_backward
from cofm_triton.kernels.linear_scan_carry import chunk_decay
from cofm_triton.kernels.linear_scan_forward import launch_forward
from cofm_triton.kernels.linear_scan_summary import launch_summary


def forward(
    x: Any, decay: Any, h0: Any, seq_starts: Any, *, reverse: bool, state_dtype: Any, num_sms: int, lanes: int = LANES
) -> tuple[Any, Any]:
    """`(h, h_last)` of a scan with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, of_complex, is_complex = x.dtype, x.is_complex(), decay.is_complex()
    decay, state_dtype = _coefficients(decay, x), _real_dtype(x, state_dtype)
    x, h0 = _reals(x, is_complex), _reals(h0)
    h = x.new_empty(x.shape)
    block, plan = _layout(x, decay, seq_starts, num_sms, 3 if decay.ndim == 3 else 2, lanes if is_complex else 0)
    state = h0
    for span in spans(plan, x.shape[1]):
        start, state = state, _states(x, seq_starts, state_dtype)
        _scan(x, decay, start, seq_starts, h, state, span, block, reverse, lanes if is_complex else 0)
    return (h.view(dtype), state.view(dtype)) if of_complex else (h, state)


def _scan(
    x: Any, decay: Any, start: Any, seq_starts: Any, h: Any, last: Any, span: Span, block: Channels, reverse: bool,
    pair_lanes: int, summed: bool = False,
) -> None:  # fmt: skip
    """The steps of `span`, in one phase or three: writes their rows of h, and last, the state after them.

    `summed`: x and decay are the summaries of chunks, and h their carries.
    """
    shape: dict[str, Any] = dict(
        span=span, block=block, reverse=reverse, is_complex=pair_lanes > 0, aligned=_aligned(x, decay), summed=summed
    )
    carry = product = None
    fold = 0
    if span.num_chunks > 1:
        ends, products = _summaries(last, decay, span)
        launch_summary(x, decay, start, ends, products, **shape)
        product = chunk_decay(decay, span.chunk_length, pair_lanes > 0) if products is None else products
        carry, fold = _carries(ends, product, reverse=False, pair_lanes=pair_lanes)
    launch_forward(x, decay, start, carry, product, seq_starts, h, last, fold=fold, **shape)


def backward(
    grad_h: Any, grad_last: Any, decay: Any, h: Any, h0: Any, seq_starts: Any,
    *, reverse: bool, state_dtype: Any, num_sms: int, lanes: int = LANES,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; grad_h0 (S, D) and a `(D,)` grad_decay in the state's dtype."""
    dtype, of_complex, gate_dtype, is_complex = h.dtype, h.is_complex(), decay.dtype, decay.is_complex()
    decay, state_dtype = _coefficients(decay, h), _real_dtype(h, state_dtype)
    grad_end, h, h0 = (_reals(tensor) for tensor in (grad_last, h, h0))
    grad_h = _reals(grad_h, is_complex)
    grad_x = grad_h.new_empty(grad_h.shape)
    gated, pair_lanes = decay.ndim == 3, lanes if is_complex else 0
    block, plan = _layout(grad_h, decay, seq_starts, num_sms, 5 if gated else 3, pair_lanes)
    grad_decay: Any = grad_h.new_empty(grad_h.shape, dtype=decay.dtype) if gated else None
    sums: list[Any] = []
    for span in reversed(spans(plan, grad_h.shape[1])):
        grad_start = _states(grad_h, seq_starts, state_dtype)
        shape: dict[str, Any] = dict(
            span=span, block=block, reverse=reverse, is_complex=is_complex, aligned=_aligned(grad_h, decay)
        )
        carry = product = None
        fold = 0
        if span.num_chunks > 1:
            ends, products = _summaries(grad_start, decay, span)
            launch_summary(grad_h, decay, grad_end, ends, products, adjoint=True, **shape)
            product = chunk_decay(decay, span.chunk_length, is_complex) if products is None else products
            product = _conjugate(product) if is_complex else product
            carry, fold = _carries(ends, product, reverse=True, pair_lanes=pair_lanes)
        by_decay = grad_decay if gated else _per_chunk(grad_start, span.num_chunks)
        launch_backward(
            grad_h, h, decay, h0, grad_end, carry, product, seq_starts, grad_x, by_decay, grad_start, fold=fold, **shape
        )
        grad_end = grad_start
        if not gated:
            sums.append(by_decay.sum((0, 1)))
    if not gated:
        grad_decay = sum(sums[1:], sums[0])
    grad_decay = grad_decay.view(gate_dtype) if is_complex else grad_decay
    return (grad_x.view(dtype), grad_decay, grad_end.view(dtype)) if of_complex else (grad_x, grad_decay, grad_end)


def _carries(ends: Any, product: Any, *, reverse: bool, pair_lanes: int) -> tuple[Any, int]:
    """`(carry, fold)` of a replay: the summaries, to be folded, where they are few; otherwise the carries, and 0.

    `carry[c] = product * carry[c-1] + ends[c]` over chunks c, from the last to the first if `reverse`.
    """
    count, width = ends.shape[1], ends.shape[2]
    if count <= FOLDED_CARRIES:
        return ends, FOLDED_CARRIES
    carry, last = ends.new_empty(ends.shape), ends.new_empty((ends.shape[0], width))
    span = Span(0, count, split_carries(count))
    block = narrowest(width, ends.element_size(), pair_lanes=pair_lanes)
    _scan(ends, product, None, None, carry, last, span, block, reverse, pair_lanes, summed=True)
    return carry, 0


def _summaries(states: Any, decay: Any, span: Span) -> tuple[Any, Any]:
    """Room for E of all chunks but one, like states (S, D), and, gated, for A."""
    ends = _per_chunk(states, span.num_chunks - 1)
    return ends, ends.new_empty(ends.shape) if decay.ndim == 3 else None


def _per_chunk(states: Any, count: int) -> Any:
    """(S, count, D) for states (S, D)."""
    return states.new_empty((states.shape[0], count, states.shape[1]))


def _states(x: Any, seq_starts: Any, state_dtype: Any) -> Any:
    """Room for a state per sequence, (S, D)."""
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    return x.new_empty((sequences, x.shape[2]), dtype=state_dtype)


def _coefficients(decay: Any, x: Any) -> Any:
    """A decay (D,), or gates (B, T, D), or (B, T, 1) where all channels of a step share one; complex ones as reals."""
    if decay.ndim == 3:
        channels = x.shape[2] // (2 if decay.is_complex() and not x.is_complex() else 1)
        if channels > 1 and (decay.shape[2] == 1 or decay.stride(2) == 0):
            decay = decay[..., 0].unsqueeze(2)
        decay = decay.expand(x.shape[0], x.shape[1], -1)
    return _reals(decay)


def _reals(tensor: Any, pairs: bool = False) -> Any:
    """A complex tensor as a real one with twice the channels, real and imaginary parts in turn.

    `pairs`: channels of a real tensor are such parts too. It is copied unless all pairs lie at even distances.
    """
    if tensor is not None and pairs and any(stride % 2 for stride in tensor.stride()[:-1]):
        tensor = tensor.contiguous()
    if tensor is None or not tensor.is_complex():
        return tensor
    tensor = tensor.resolve_conj()
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor.view(tensor.real.dtype)


def _real_dtype(tensor: Any, state_dtype: Any) -> Any:
    """The dtype that holds one part of the state."""
    return tensor.real.dtype if tensor.is_complex() else state_dtype


def _conjugate(numbers: Any) -> Any:
    """The conjugate of interleaved numbers."""
    numbers = numbers.clone()
    numbers[..., 1::2].neg_()
    return numbers


def _aligned(x: Any, decay: Any) -> bool:
    """Whether all rows, of x, of a gated decay and of dense tensors, can be moved 16 bytes at a time."""
    return has_aligned_rows(x) and (decay.ndim == 1 or has_shared_gates(decay, x) or has_aligned_rows(decay))


def _layout(
    x: Any, decay: Any, seq_starts: Any, num_sms: int, streams: int, pair_lanes: int
) -> tuple[Channels, Chunks]:
    """Blocks of channels and chunks of time of a pass that moves `streams` tensors of x's size.

    Gates wider than x decide how many numbers a lane has: otherwise lanes would have to exchange some of x.
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    element_size = max(x.element_size(), decay.element_size()) if decay.ndim == 3 else x.element_size()
    return layout(
        x.shape[1], sequences, x.shape[2], element_size, num_sms, streams=streams, packed=seq_starts is not None,
        pair_lanes=pair_lanes, aligned=_aligned(x, decay),
    )  # fmt: skip
