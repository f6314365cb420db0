"""Linear scan, `h[t] = decay[t] * h[t-1] + x[t]`, forward and backward, whole or split in time.

Indices: b batch, s sequence, t time, d channel; x, h and their gradients are (B, T, D), contiguous or not, states are
(S, D). The decay is (D,), loaded once and never materialised over time, or, gated, (B, T, D) with strides of its own;
shared, it is one number per step for all channels. Complex tensors are real ones of twice as many channels; so are
pairs of real channels with a complex decay. States and decays are float32, float64 for float64 input.

A program owns a block of channels of one sequence and walks it tile by tile. Where batch and channels keep the device
busy, a program is one warp, and a tile a few rows. Otherwise time lies over its warps (`linear_scan_tile.py`). Where
channels are so few that most multiprocessors would have no program, time is split into chunks, in two launches:

1. summary (`linear_scan_summary.py`): the state after every chunk from a zero start;
2. replay (`linear_scan_forward.py`, `linear_scan_backward.py`): all rows. Every program makes the state before its
   chunk from the summaries. A whole sequence is the replay of its only chunk.

Traffic in elements per element: forward 2 (gated 3, shared 2), backward 3 (gated 5, shared 4); resets, one byte for
each step of a block of channels. Chunks read x, in the
backward pass g, twice, and gates with it: 1 more, gated 2.
Source: arXiv 2305.19190, Eq. (1) for linear sigma, and its adjoint; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

from cofm_triton.kernels.launch import LANES, Tiles, has_aligned_rows, has_shared_gates, layout
from cofm_triton.kernels.linear_scan_backward import launch_backward
from cofm_triton.kernels.linear_scan_forward import launch_forward
from cofm_triton.kernels.linear_scan_summary import launch_summary


def forward(
    x: Any, decay: Any, h0: Any, seq_starts: Any, *, reverse: bool, state_dtype: Any, resets: Any = None,
    reset_to: str = "h0", num_sms: int, lanes: int = LANES,
) -> tuple[Any, Any]:  # fmt: skip
    """`(h, h_last)` of a scan with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, of_complex, is_complex = x.dtype, x.is_complex(), decay.is_complex()
    decay, state_dtype = _coefficients(decay, x), _real_dtype(x, state_dtype)
    x, h0 = _reals(x, is_complex), _reals(h0)
    h, last = x.new_empty(x.shape), _states(x, seq_starts, state_dtype)
    tiles = _layout(x, decay, seq_starts, num_sms, lanes, is_complex)
    shape: dict[str, Any] = dict(tiles=tiles, reverse=reverse, is_complex=is_complex, aligned=_aligned(x, decay))
    shape["from_start"] = _from_start(resets, reset_to, h0)
    ends, products = _summaries(x, decay, h0, resets, last, adjoint=False, **shape)
    launch_forward(x, decay, h0, ends, products, resets, seq_starts, h, last, **shape)
    return (h.view(dtype), last.view(dtype)) if of_complex else (h, last)


def backward(
    grad_h: Any, grad_last: Any, decay: Any, h: Any, h0: Any, seq_starts: Any,
    *, reverse: bool, state_dtype: Any, resets: Any = None, reset_to: str = "h0", num_sms: int, lanes: int = LANES,
    summed: bool = True,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; grad_h0 (S, D) and a `(D,)` grad_decay in the state's dtype. Not
    `summed`, the latter is in (S, chunks, D) pieces, of which complex ones are pairs of channels.
    """
    dtype, of_complex, gate_dtype, is_complex = h.dtype, h.is_complex(), decay.dtype, decay.is_complex()
    decay, state_dtype = _coefficients(decay, h), _real_dtype(h, state_dtype)
    grad_end, h, h0 = (_reals(tensor) for tensor in (grad_last, h, h0))
    grad_h = _reals(grad_h, is_complex)
    grad_x, grad_start = grad_h.new_empty(grad_h.shape), _states(grad_h, seq_starts, state_dtype)
    tiles, gated = _layout(grad_h, decay, seq_starts, num_sms, lanes, is_complex), decay.ndim == 3
    grad_decay = (
        grad_h.new_empty(grad_h.shape, dtype=decay.dtype) if gated else _per_chunk(grad_start, tiles.num_chunks)
    )
    shape: dict[str, Any] = dict(tiles=tiles, reverse=reverse, is_complex=is_complex, aligned=_aligned(grad_h, decay))
    shape["from_start"] = from_start = _from_start(resets, reset_to, h0)
    ends, products = _summaries(grad_h, decay, grad_end, resets, grad_start, adjoint=True, **shape)
    if from_start:
        grad_start = _per_chunk(grad_start, tiles.num_chunks)
    launch_backward(
        grad_h, h, decay, h0, grad_end, ends, products, resets, seq_starts, grad_x, grad_decay, grad_start, **shape
    )  # fmt: skip
    if from_start:
        grad_start = grad_start.sum(1)
    if summed:
        grad_decay = grad_decay if gated else grad_decay.sum((0, 1))
        grad_decay = grad_decay.view(gate_dtype) if gate_dtype.is_complex else grad_decay
    return (grad_x.view(dtype), grad_decay, grad_start.view(dtype)) if of_complex else (grad_x, grad_decay, grad_start)


def _from_start(resets: Any, reset_to: str, h0: Any) -> bool:
    """Whether there are resets to a start state, which is not zero."""
    return resets is not None and reset_to == "h0" and h0 is not None


def _summaries(
    x: Any, decay: Any, start: Any, resets: Any, states: Any, *, tiles: Tiles, **options: Any
) -> tuple[Any, Any]:
    """E of all chunks but one, and, gated or with resets, A, with dtype and device of states (S, D); nothing of a
    single chunk.
    """
    if tiles.num_chunks == 1:
        return None, None
    ends = _per_chunk(states, tiles.num_chunks - 1)
    products = ends.new_empty(ends.shape) if decay.ndim == 3 or resets is not None else None
    launch_summary(x, decay, start, resets, ends, products, tiles=tiles, **options)
    return ends, products


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


def _aligned(x: Any, decay: Any) -> bool:
    """Whether all rows, of x, of a gated decay and of dense tensors, can be moved 16 bytes at a time."""
    return has_aligned_rows(x) and (decay.ndim == 1 or has_shared_gates(decay, x) or has_aligned_rows(decay))


def _layout(x: Any, decay: Any, seq_starts: Any, num_sms: int, lanes: int, is_complex: bool) -> Tiles:
    """Programs of a pass. Gates wider than x decide how many numbers a lane has: otherwise lanes would have to exchange
    some of x.
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    element_size = max(x.element_size(), decay.element_size()) if decay.ndim == 3 else x.element_size()
    return layout(
        x.shape[1], sequences, x.shape[2], element_size, num_sms,
        lanes=lanes, pairs=is_complex, packed=seq_starts is not None, aligned=_aligned(x, decay),
    )  # fmt: skip
