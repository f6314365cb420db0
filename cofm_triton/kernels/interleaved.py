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
def parts(row):
    """`(real, imaginary)` of rows of channels, of one axis or two."""
    if len(row.shape) == 1:
        pairs = tl.reshape(row, (row.shape[0] // 2, 2))
    else:
        pairs = tl.reshape(row, (row.shape[0], row.shape[1] // 2, 2))
    return tl.split(pairs)


@triton.jit
def swap(row):
    """The row with channels 2k and 2k + 1 exchanged."""
    even, odd = parts(row)
    return tl.interleave(odd, even)


@triton.jit
def multiply(a, b, COMPLEX: tl.constexpr):
    """a * b, channel by channel."""
    if COMPLEX:
        a_re, a_im = parts(a)
        b_re, b_im = parts(b)
        product = tl.interleave(a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re)
    else:
        product = a * b
    return product


@triton.jit
def multiply_conj(a, b, COMPLEX: tl.constexpr):
    """conj(a) * b, channel by channel: the products of an adjoint."""
    if COMPLEX:
        a_re, a_im = parts(a)
        b_re, b_im = parts(b)
        product = tl.interleave(a_re * b_re + a_im * b_im, a_re * b_im - a_im * b_re)
    else:
        product = a * b
    return product


@triton.jit
def multiply_add(a, b, c, COMPLEX: tl.constexpr):
    """a * b + c, channel by channel, in fused products, which compilers do not make of complex ones by themselves."""
    if COMPLEX:
        real, imaginary = parts(a)
        total = tl.fma(tl.interleave(real, real), b, c)
        total = tl.fma(tl.interleave(-imaginary, imaginary), swap(b), total)
    else:
        total = a * b + c
    return total


@triton.jit
def multiply_conj_add(a, b, c):
    """conj(a) * b + c of complex numbers, likewise."""
    real, imaginary = parts(a)
    total = tl.fma(tl.interleave(real, real), b, c)
    return tl.fma(tl.interleave(imaginary, -imaginary), swap(b), total)


@triton.jit
def add_products(sums, a, b, COMPLEX: tl.constexpr):
    """Sums of products of which `sum_conj` makes the sum of conj(a) * b: of parts alike, and of parts crossed."""
    alike, crossed = sums
    if COMPLEX:
        alike, crossed = tl.fma(a, b, alike), tl.fma(a, swap(b), crossed)
    else:
        alike += a * b
    return alike, crossed


@triton.jit
def sum_conj(sums, COMPLEX: tl.constexpr):
    """The sum of conj(a) * b, see `add_products`."""
    total, crossed = sums
    if COMPLEX:
        real, imaginary = parts(total)
        ahead, behind = parts(crossed)
        total = tl.interleave(real + imaginary, ahead - behind)
    return total


@triton.jit
def conjugate(row, COMPLEX: tl.constexpr):
    """conj(row), channel by channel."""
    if COMPLEX:
        real, imaginary = parts(row)
        row = tl.interleave(real, -imaginary)
    return row


@triton.jit
def one(shape, DTYPE: tl.constexpr, COMPLEX: tl.constexpr):
    """Rows of ones, of two axes."""
    if COMPLEX:
        half: tl.constexpr = (shape[0], shape[1] // 2)
        row = tl.interleave(tl.full(half, 1.0, DTYPE), tl.zeros(half, DTYPE))
    else:
        row = tl.full(shape, 1.0, DTYPE)
    return row
