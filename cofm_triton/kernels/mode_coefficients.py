"""Coefficients of a step from raw parameters, all of a layer's in one launch, and their gradients in another.

Index i is a mode: a unit or a pair of them. The equations are those of `step/modes.py`, `step/oscillation.py` and
`step/coefficients.py`, whose names are used. With z = x + i theta = dt (r + i w) and m = 1 - l, where l is the decay:

    linear state       first = l         second = gain
    nonlinear act      first = m / dt    second = what the input is multiplied by

r = s f(w) and, in linear states, w = s u q with the unit u of the pair; pairs with the nonlinearity inside turn by
bound(x) (2 / pi) atan(q).
All depend on (x, theta) by analytic functions of z, or on |l|: dm/dx = D, dm/dtheta = i D. All is float64 on the way,
and rounded once. The derivatives of the coefficients are kept for the gradients, some hundred bytes a mode.
Source: arXiv 2303.06349, section 3; defined in `reference/oscillation.py` and `reference/discretization.py`.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.elementary import atan, complement, sin_cos
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.parameterization import derivative, function

BLOCK = 64  # modes of a program: two a lane, with many numbers of float64 for each
# Numbers of a mode: parts of both coefficients, and the derivative of each by w, q and log dt.
PARTS, VARIABLES = 4, 3
_SERIES_TERMS = tl.constexpr(18)  # of phi, for |z| < 1/2: the first one left out is below 1e-22
_LIMIT = tl.constexpr(30.0)  # of exp in the parameterisation "lru"
_SHARE, _QUARTER_TURN = tl.constexpr(2 / math.pi), tl.constexpr(math.pi / 2)


@triton.jit
def zero_order_hold(x, theta, lr, li, mr, mi):
    """phi(z) = m / z and phi'(z) = (l - phi) / z, by their series near 0."""
    size = x * x + theta * theta
    near = size < 0.25
    zr = tl.where(near, x, 0.0)
    zi = tl.where(near, theta, 0.0)
    pr = zr * 0.0 + 1.0
    pi = zr * 0.0
    dr = zr * 0.0
    di = zr * 0.0
    for n in tl.static_range(_SERIES_TERMS, 0, -1):
        ur = pr + zr * dr - zi * di
        ui = pi + zr * di + zi * dr
        dr = -ur / (n + 1)
        di = -ui / (n + 1)
        vr = zr * pr - zi * pi
        vi = zr * pi + zi * pr
        pr = 1.0 - vr / (n + 1)
        pi = -vi / (n + 1)
    size = tl.where(near, 1.0, size)
    fr = (mr * x + mi * theta) / size
    fi = (mi * x - mr * theta) / size
    gr = lr - fr
    gi = li - fi
    dr = tl.where(near, dr, (gr * x + gi * theta) / size)
    di = tl.where(near, di, (gi * x - gr * theta) / size)
    return tl.where(near, pr, fr), tl.where(near, pi, fi), dr, di


@triton.jit
def contracting(x, EXACT: tl.constexpr):
    """The largest angle at which pairs contract, at most pi / 2, and its derivative; see `contracting_angle`."""
    quarter = x * 0.0 + _QUARTER_TURN  # `tl.where` takes a number for float32
    if EXACT:
        under = 2.0 - tl.exp(2.0 * x)
        slow = under > 0
        root = tl.sqrt(tl.where(slow, under, 1.0))
        rise = -complement(-tl.where(slow, x, 0.0))
        whole = 1.0 + root
        bound = tl.where(slow, 2.0 * atan(rise / whole), quarter)
        grown = (1.0 + rise) * whole + rise * (1.0 + rise) * (1.0 + rise) / root
        slope = tl.where(slow, 2.0 * grown / (whole * whole + rise * rise), 0.0)
    else:
        least = tl.where(x < 1.0, x, 2.0 - x)
        bound = tl.where(least > 0, tl.where(least < quarter, least, quarter), 0.0)
        slope = tl.where((least > 0) & (least < quarter), tl.where(x < 1.0, 1.0, -1.0), 0.0)
    return bound, slope


@triton.jit
def of_mode(
    w, q, unit, log_dt, dt,
    EXACT: tl.constexpr, LINEAR: tl.constexpr, PAIRED: tl.constexpr, BOUNDED: tl.constexpr,
    LEARNED: tl.constexpr, GAIN: tl.constexpr, PARAMETERIZATION: tl.constexpr,
):  # fmt: skip
    """Real and imaginary parts of the first and the second coefficient, then the derivatives of all, by variable."""
    s = w * 0.0 + 1.0
    if LEARNED:
        s = tl.exp(log_dt) / dt
    f = function(w, PARAMETERIZATION=PARAMETERIZATION)
    x_w = dt * s * derivative(w, PARAMETERIZATION=PARAMETERIZATION)
    x = dt * s * f
    theta = x * 0.0
    theta_x = x * 0.0
    theta_q = x * 0.0
    theta_s = x * 0.0  # by log dt, with x held
    if PAIRED:
        if LINEAR:
            theta_q = dt * s * unit
            theta = theta_q * q
            theta_s = theta
        else:
            bound = x * 0.0 + _QUARTER_TURN
            if not BOUNDED:
                bound, theta_x = contracting(x, EXACT=EXACT)
            turned = _SHARE * atan(q)
            theta = bound * turned
            theta_x = theta_x * turned
            theta_q = bound * _SHARE / (1.0 + q * q)
    if EXACT:
        shrunk = tl.exp(-x)
        sine, cosine = sin_cos(theta / 2.0)
        lr = shrunk * (cosine - sine) * (cosine + sine)
        li = -2.0 * shrunk * sine * cosine
        mr = complement(x) + 2.0 * shrunk * sine * sine
        mi = -li
        dr = lr
        di = li
    else:
        lr = 1.0 - x
        li = -theta
        mr = x
        mi = theta
        dr = x * 0.0 + 1.0
        di = x * 0.0

    if LINEAR:
        ar = lr
        ai = li
        scale = -1.0
    else:
        ar = mr / dt
        ai = mi / dt
        scale = 1.0 / dt
    ar_x = scale * dr
    ai_x = scale * di
    ar_t = -scale * di
    ai_t = scale * dr

    br = x * 0.0 + 1.0
    bi = x * 0.0
    br_x = x * 0.0
    bi_x = x * 0.0
    br_t = x * 0.0
    bi_t = x * 0.0
    br_w = x * 0.0  # with x and theta held
    power = 0.0  # of s in front
    if GAIN == "normalized":
        if EXACT:
            lost = complement(2.0 * x)
            lost_x = 2.0 * tl.exp(-2.0 * x)
            lost_t = x * 0.0
        else:
            lost = 2.0 * x - (x * x + theta * theta)
            lost_x = 2.0 * (1.0 - x)
            lost_t = -2.0 * theta
        positive = lost > 0
        root = tl.sqrt(tl.where(positive, lost, 1.0))
        br = tl.where(positive, root, tl.where(lost <= 0, 0.0, lost))
        br_x = tl.where(positive, lost_x / (2.0 * root), 0.0)
        br_t = tl.where(positive, lost_t / (2.0 * root), 0.0)
    if GAIN == "rising":
        if PAIRED:
            br = tl.sqrt(mr * mr + mi * mi)
            length = tl.where(br > 0, br, 1.0)
            br_x = (mr * dr + mi * di) / length
            br_t = (mi * dr - mr * di) / length
        else:
            br = mr
            br_x = dr
    if (GAIN == "hold") or (LINEAR and (GAIN == "paper")):
        power = 1.0
        br = x * 0.0 + dt
        if EXACT:
            pr, pi, pdr, pdi = zero_order_hold(x, theta, lr, li, mr, mi)
            br = dt * pr
            bi = dt * pi
            br_x = dt * pdr
            bi_x = dt * pdi
            br_t = -dt * pdi
            bi_t = dt * pdr
    if GAIN == "paper":
        grown = tl.exp(tl.where(w > _LIMIT, _LIMIT, w))
        rate = complement(grown)
        over = tl.sqrt(1.0 + rate)
        factor = tl.exp(-grown / 2.0) * over
        br_w = br * tl.where(w > _LIMIT, 0.0, -rate * grown * tl.exp(-grown / 2.0) / over)
        br = br * factor
        br_x = br_x * factor
    if (not LINEAR) and ((GAIN == "normalized") or (GAIN == "rising")):
        power = -1.0
        br = br / dt
        br_x = br_x / dt
        br_t = br_t / dt
    front = x * 0.0 + 1.0
    if power > 0:
        front = s
    if power < 0:
        front = 1.0 / s
    br = front * br
    bi = front * bi
    br_x = front * br_x
    bi_x = front * bi_x
    br_t = front * br_t
    bi_t = front * bi_t
    br_w = front * br_w

    theta_w = theta_x * x_w
    theta_l = theta_s + theta_x * x
    return (
        ar, ai, br, bi,
        ar_x * x_w + ar_t * theta_w, ai_x * x_w + ai_t * theta_w,
        br_x * x_w + br_t * theta_w + br_w, bi_x * x_w + bi_t * theta_w,
        ar_t * theta_q, ai_t * theta_q, br_t * theta_q, bi_t * theta_q,
        ar_x * x + ar_t * theta_l, ai_x * x + ai_t * theta_l,
        br_x * x + br_t * theta_l + power * br, bi_x * x + bi_t * theta_l + power * bi,
    )  # fmt: skip


@triton.jit
def mode_coefficients_kernel(
    w_ptr,  # (M,)
    q_ptr,  # (F,), F = M, or M - 1 where the last mode does not turn; read if PAIRED
    log_dt_ptr,  # (M,), read if LEARNED
    first_ptr,  # out: parts of the first coefficient, `first_step` apart, those of a mode `first_gap`; see `forward`
    second_ptr,  # out: (M,); PAIRED (M, 2), complex or twice the same; None: unwanted
    slopes_ptr,  # out: (VARIABLES, PARTS, M) float64; None: unwanted
    M: tl.int64, F: tl.int64, first_step: tl.int64, first_gap: tl.int64, dt: tl.float64,
    unit_first: tl.float64, unit_rise: tl.float64,  # see `unit_steps`
    PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, LINEAR: tl.constexpr, PAIRED: tl.constexpr,
    BOUNDED: tl.constexpr, LEARNED: tl.constexpr, GAIN: tl.constexpr, COMPLEX_GAIN: tl.constexpr,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both coefficients, and their derivatives; COUNT = PARTS * VARIABLES."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < M
    w = tl.load(w_ptr + i, mask=there, other=0.0).to(tl.float64)
    q = w
    unit = w
    log_dt = w
    if PAIRED:
        q = tl.load(q_ptr + i, mask=i < F, other=0.0).to(tl.float64)
        if LINEAR:
            unit = tl.exp(unit_first + unit_rise * i.to(tl.float64))
    if LEARNED:
        log_dt = tl.load(log_dt_ptr + i, mask=there, other=0.0).to(tl.float64)
    found = of_mode(
        w, q, unit, log_dt, dt,
        EXACT=EXACT, LINEAR=LINEAR, PAIRED=PAIRED, BOUNDED=BOUNDED, LEARNED=LEARNED, GAIN=GAIN,
        PARAMETERIZATION=PARAMETERIZATION,
    )  # fmt: skip
    tl.store(first_ptr + i * first_step, found[0].to(first_ptr.dtype.element_ty), mask=there)
    if PAIRED:
        tl.store(first_ptr + first_gap + i * first_step, found[1].to(first_ptr.dtype.element_ty), mask=there)
        if not LINEAR:
            tl.store(first_ptr + i * first_step + 1, found[0].to(first_ptr.dtype.element_ty), mask=there)
            turned = -found[1]
            tl.store(first_ptr + first_gap + i * first_step + 1, turned.to(first_ptr.dtype.element_ty), mask=there)
    if second_ptr is not None:
        if PAIRED:
            other = found[3] if COMPLEX_GAIN else found[2]
            tl.store(second_ptr + 2 * i, found[2].to(second_ptr.dtype.element_ty), mask=there)
            tl.store(second_ptr + 2 * i + 1, other.to(second_ptr.dtype.element_ty), mask=there)
        else:
            tl.store(second_ptr + i, found[2].to(second_ptr.dtype.element_ty), mask=there)
    if slopes_ptr is not None:
        for k in tl.static_range(COUNT):
            tl.store(slopes_ptr + k * M + i, found[4 + k], mask=there)


@triton.jit
def mode_gradients_kernel(
    grad_first_ptr, grad_second_ptr,  # as `first_ptr` and `second_ptr` of the kernel above; None: zero
    slopes_ptr,  # (VARIABLES, PARTS, M) float64
    grad_w_ptr, grad_q_ptr, grad_log_dt_ptr,  # out: as the parameters
    M: tl.int64, F: tl.int64, first_step: tl.int64, first_gap: tl.int64,
    LINEAR: tl.constexpr, PAIRED: tl.constexpr, LEARNED: tl.constexpr, COMPLEX_GAIN: tl.constexpr,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients by w, q and log dt."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < M
    zero = tl.zeros((BLOCK,), tl.float64)
    first = zero
    first_turned = zero
    second = zero
    second_turned = zero
    if grad_first_ptr is not None:
        first = tl.load(grad_first_ptr + i * first_step, mask=there, other=0.0).to(tl.float64)
        if PAIRED:
            at = grad_first_ptr + i * first_step
            first_turned = tl.load(at + first_gap, mask=there, other=0.0).to(tl.float64)
            if not LINEAR:
                first += tl.load(at + 1, mask=there, other=0.0).to(tl.float64)
                first_turned -= tl.load(at + first_gap + 1, mask=there, other=0.0).to(tl.float64)
    if grad_second_ptr is not None:
        if PAIRED:
            second = tl.load(grad_second_ptr + 2 * i, mask=there, other=0.0).to(tl.float64)
            second_turned = tl.load(grad_second_ptr + 2 * i + 1, mask=there, other=0.0).to(tl.float64)
            if not COMPLEX_GAIN:
                second += second_turned
                second_turned = zero
        else:
            second = tl.load(grad_second_ptr + i, mask=there, other=0.0).to(tl.float64)
    at = slopes_ptr + i
    for variable in tl.static_range(3):
        row = at + variable * PARTS * M
        grad = first * tl.load(row, mask=there, other=0.0)
        grad += first_turned * tl.load(row + M, mask=there, other=0.0)
        grad += second * tl.load(row + 2 * M, mask=there, other=0.0)
        grad += second_turned * tl.load(row + 3 * M, mask=there, other=0.0)
        if variable == 0:
            tl.store(grad_w_ptr + i, grad.to(grad_w_ptr.dtype.element_ty), mask=there)
        if PAIRED:
            if variable == 1:
                tl.store(grad_q_ptr + i, grad.to(grad_q_ptr.dtype.element_ty), mask=i < F)
        if LEARNED:
            if variable == 2:
                tl.store(grad_log_dt_ptr + i, grad.to(grad_log_dt_ptr.dtype.element_ty), mask=there)


def forward(w: Any, q: Any, log_dt: Any, first: Any, second: Any, slopes: Any, kind: Any) -> None:
    """Writes what the kernel gives. Of pairs, parts of `first` are neighbours in linear states, (M, 2); otherwise they
    are rows (2, 2 M) with a number for each channel, of which the second of a pair is turned the other way.
    """
    launch(mode_coefficients_kernel, (-(-w.shape[0] // BLOCK),))(
        w, q, log_dt, first, second, slopes, *_sizes(w, q, kind), kind.dt, *kind.units,
        PARAMETERIZATION=kind.parameterization, EXACT=kind.exact, LINEAR=kind.linear, PAIRED=q is not None,
        BOUNDED=kind.bounded, LEARNED=log_dt is not None, GAIN=kind.gain, COMPLEX_GAIN=kind.complex_gain,
        COUNT=PARTS * VARIABLES, BLOCK=BLOCK, num_warps=1,
    )  # fmt: skip


def backward(
    grad_w: Any, grad_q: Any, grad_log_dt: Any, grad_first: Any, grad_second: Any, slopes: Any, kind: Any
) -> None:
    """Writes the gradients by w, q and log dt; those of the coefficients lie as `forward` writes the coefficients."""
    launch(mode_gradients_kernel, (-(-grad_w.shape[0] // BLOCK),))(
        grad_first, grad_second, slopes, grad_w, grad_q, grad_log_dt, *_sizes(grad_w, grad_q, kind),
        LINEAR=kind.linear, PAIRED=grad_q is not None, LEARNED=grad_log_dt is not None,
        COMPLEX_GAIN=kind.complex_gain, PARTS=PARTS, BLOCK=BLOCK, num_warps=1,
    )  # fmt: skip


def _sizes(w: Any, q: Any, kind: Any) -> tuple[int, int, int, int]:
    """Modes, free frequencies, and how far the parts of the first coefficient are apart: of two modes, and of one."""
    modes = w.shape[0]
    if q is None:
        return modes, 0, 1, 0
    return modes, q.shape[0], 2, 1 if kind.linear else 2 * modes
