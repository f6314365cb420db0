"""Products of complex rows: real and imaginary parts lie next to each other, as PyTorch stores them.

A complex (B, T, D) tensor is to the kernels a real one of 2 D channels; only products know better. Neighbouring
channels belong to one thread, so that taking a row apart and putting it together moves nothing between threads.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def in_pairs(count):
    """An even number, in a form that shows it to be even: a lane then reads both parts of a number at once."""
    return count // 2 * 2


@triton.jit
def _parts(row):
    return tl.split(tl.reshape(row, (row.shape[0] // 2, 2)))


@triton.jit
def swap(row):
    """The row with channels 2k and 2k + 1 exchanged."""
    even, odd = _parts(row)
    return tl.interleave(odd, even)


@triton.jit
def multiply(a, b, COMPLEX: tl.constexpr):
    """a * b, channel by channel."""
    if COMPLEX:
        a_re, a_im = _parts(a)
        b_re, b_im = _parts(b)
        product = tl.interleave(a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re)
    else:
        product = a * b
    return product


@triton.jit
def multiply_conj(a, b, COMPLEX: tl.constexpr):
    """conj(a) * b, channel by channel: the products of an adjoint."""
    if COMPLEX:
        a_re, a_im = _parts(a)
        b_re, b_im = _parts(b)
        product = tl.interleave(a_re * b_re + a_im * b_im, a_re * b_im - a_im * b_re)
    else:
        product = a * b
    return product


@triton.jit
def one(BLOCK_D: tl.constexpr, DTYPE: tl.constexpr, COMPLEX: tl.constexpr):
    """The row of ones."""
    row = tl.full((BLOCK_D,), 1.0, DTYPE)
    if COMPLEX:
        row = tl.where(tl.arange(0, BLOCK_D) % 2 == 0, row, 0.0)
    return row
