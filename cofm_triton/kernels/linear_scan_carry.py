"""Carries between the chunks of a scan whose time is split: `H[c] = A[c] * H[c-1] + E[c]`.

Indices: c chunk, d channel. E[c] (S, chunks, D) is the state after chunk c from a zero start, its summary. A[c] is the
product of its decays, (D,) where every chunk decays alike, otherwise like E. H[c] is the state after chunk c.

Products of many decays leave the range of floating point. Two rules keep H what the walk over all steps would give:

- a zero state stays zero, even if A is infinite: H = E wherever H[c-1] = 0;
- a product that underflows keeps the smallest size above 0: an infinite state stays infinite, and only a decay of 0
  makes it NaN.

Complex products follow neither rule.
Source: G. E. Blelloch, Prefix sums and their applications (1990): the scan over the sums of blocks.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import multiply
from cofm_triton.kernels.rows import live_row, load_last_rows

# The smallest number above 0 of a state, by its size in bytes.
SMALLEST = {4: 2.0**-149, 8: 2.0**-1074}


@triton.jit
def next_state(h, decay, x, SUMMED: tl.constexpr, COMPLEX: tl.constexpr):
    """`decay * h + x`. SUMMED, decay and x stand for a whole chunk: A and E."""
    state = multiply(decay, h, COMPLEX=COMPLEX) + x
    if SUMMED:
        if not COMPLEX:
            state = tl.where(h == 0, x, state)
    return state


@triton.jit
def next_product(product, decay, COMPLEX: tl.constexpr):
    """`product * decay`, which never underflows to 0."""
    result = multiply(product, decay, COMPLEX=COMPLEX)
    if not COMPLEX:
        result = tl.where((result == 0) & (decay != 0), tl.where(decay < 0, -product, product), result)
    return result


@triton.jit
def fold_summaries(
    ends_row, products_row, step, d, D, count,
    GATED: tl.constexpr, COMPLEX: tl.constexpr, STATE: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """H after the `count` <= FOLD chunks whose summaries lie at `ends_row`, `ends_row + step`, ...

    A lies at `products_row` in the same way if GATED, otherwise (D,) at `products_row`. All are loaded at once. Every
    program that needs them adds them up in the same order.
    """
    ends = load_last_rows(ends_row, step, d, D, count, ROWS=FOLD)
    product = tl.zeros((d.shape[0],), STATE)
    products = ()
    if GATED:
        products = load_last_rows(products_row, step, d, D, count, ROWS=FOLD)
    else:
        product = tl.load(products_row, mask=d < D, other=0.0).to(STATE)

    h = ends[0].to(STATE)
    for j in tl.static_range(1, FOLD):
        if GATED:
            product = products[j].to(STATE)
        after = next_state(h, product, ends[j].to(STATE), SUMMED=True, COMPLEX=COMPLEX)
        h = tl.where(live_row(d, D, j, count), after, h)
    return h


def chunk_decay(decay: Any, length: int, is_complex: bool) -> Any:
    """A of a chunk of `length` steps with one decay per channel: `decay ** length`, (D,).

    The power is taken in float64 (relative error below 1e-13 at 2^20 steps, exact for 0, 1 and -1), of a complex decay
    by modulus and argument, and never as one minus something. The last chunk may be shorter: its A is never asked for.
    """
    if not is_complex:
        power, smallest = decay.double().pow(length), SMALLEST[decay.element_size()]
        return power.abs().clamp(min=smallest).copysign(power).where(decay != 0, power).to(decay.dtype)
    real, imaginary = decay.double().unflatten(0, (-1, 2)).unbind(1)
    modulus, argument = real.hypot(imaginary).pow(length), imaginary.atan2(real) * length
    power = decay.new_empty((decay.shape[0] // 2, 2))
    power[:, 0] = modulus * argument.cos()
    power[:, 1] = modulus * argument.sin()
    return power.flatten()
