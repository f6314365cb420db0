"""Coefficients of a step from raw parameters, and the encoder with its gain: all of a layer's in one launch, and their
gradients in another.

Index i is a mode: a unit or a pair of them. The equations are those of `step/modes.py`, `step/oscillation.py` and
`step/coefficients.py`, whose names are used. With z = x + i theta = dt (r + i w) and m = 1 - l, where l is the decay:

    linear state       first = l         second = gain
    nonlinear act      first = m / dt    second = what the input is multiplied by

r = s f(w) and, in linear states, w = s u q with the unit u of the pair; pairs with the nonlinearity inside turn by
bound(x) (2 / pi) atan(q).
All depend on (x, theta) by analytic functions of z, or on |l|: dm/dx = D, dm/dtheta = i D. All is float64 on the way,
and rounded once. The derivatives of the coefficients are kept for the gradients, some hundred bytes a mode.

With an encoder, row i of U is a unit's: U'[i] = gain[i] U[i], b'[i] = gain[i] b[i]. With G = dL/dU' and c = dL/db':

    dL/dU[i] = gain[i] G[i]    dL/db[i] = gain[i] c[i]    dL/dgain[i] = sum over k of G[i, k] U[i, k] + c[i] b[i]

A program owns a few modes. Gradients by the first coefficient come in pieces, one for each sequence and chunk, which it
sums up. Traffic in elements per element of U: 2, and 3 backward.
Source: arXiv 2303.06349, section 3; defined in `reference/oscillation.py` and `reference/discretization.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl

from cofm_triton.kernels.elementary import atan, complement, sin_cos
from cofm_triton.kernels.launch import MODE_COLUMNS, MODE_PIECES, MODES
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.parameterization import derivative, function

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
        side = tl.where(x < 1.0, 1.0, tl.where(x > 1.0, -1.0, 0.0))  # at the kink, where fresh units are, PyTorch's
        slope = tl.where((least > 0) & (least < quarter), side, 0.0)
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
            turned = atan(q) * _SHARE
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
    made_ptr,  # out, float64: see `Layout`
    weight_ptr,  # (D, d), U, D = 2 M if PAIRED, else M; None: no encoder
    bias_ptr,  # (D,), b; None: there is none
    gained_ptr, gained_bias_ptr,  # out: U', (D, d) contiguous, and b'
    M: tl.int64, F: tl.int64, dt: tl.float64,
    unit_first: tl.float64, unit_rise: tl.float64,  # see `unit_steps`
    d: tl.int64, stride_row: tl.int64, stride_column: tl.int64,
    PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, LINEAR: tl.constexpr, PAIRED: tl.constexpr,
    BOUNDED: tl.constexpr, LEARNED: tl.constexpr, GAIN: tl.constexpr, COMPLEX_GAIN: tl.constexpr,
    KEPT: tl.constexpr, MADE: tl.constexpr, MODES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Both coefficients, and KEPT derivatives. Then U' and b'."""
    i = tl.program_id(0).to(tl.int64) * MODES + tl.arange(0, MODES)
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
    for part in tl.static_range(KEPT):
        tl.store(made_ptr + part * M + i, found[4 + part], mask=there)
    first_ptr = coefficients_at(made_ptr, M, KEPT=KEPT, MADE=MADE)
    CHANNELS: tl.constexpr = 2 if PAIRED else 1
    FIRST: tl.constexpr = 4 if PAIRED and (not LINEAR) else CHANNELS
    store_rounded(first_ptr + CHANNELS * i, found[0], there)
    if PAIRED:
        if LINEAR:
            store_rounded(first_ptr + 2 * i + 1, found[1], there)
        else:
            store_rounded(first_ptr + 2 * i + 1, found[0], there)
            store_rounded(first_ptr + 2 * (M + i), found[1], there)
            store_rounded(first_ptr + 2 * (M + i) + 1, -found[1], there)
    if GAIN != "nothing":
        second_ptr = first_ptr + FIRST * M
        store_rounded(second_ptr + CHANNELS * i, found[2], there)
        if PAIRED:
            store_rounded(second_ptr + 2 * i + 1, found[3] if COMPLEX_GAIN else found[2], there)
    if weight_ptr is not None:
        gain = found[2].to(weight_ptr.dtype.element_ty)
        for channel in tl.static_range(CHANNELS):
            row = CHANNELS * i + channel
            for start in range(0, d, COLUMNS):
                k = start + tl.arange(0, COLUMNS)
                inside = there[:, None] & (k < d)[None, :]
                values = tl.load(weight_ptr + row[:, None] * stride_row + k[None, :] * stride_column, mask=inside)
                tl.store(gained_ptr + row[:, None] * d + k[None, :], gain[:, None] * values, mask=inside)
            if bias_ptr is not None:
                tl.store(gained_bias_ptr + row, gain * tl.load(bias_ptr + row, mask=there), mask=there)


@triton.jit
def coefficients_at(made_ptr, M, KEPT: tl.constexpr, MADE: tl.constexpr):
    """Where the coefficients begin, behind KEPT derivatives of M modes."""
    return (made_ptr + KEPT * M).to(tl.pointer_type(MADE), bitcast=True)


@triton.jit
def store_rounded(pointer, value, mask):
    """Store in the dtype of the memory."""
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def summed_pieces(pointer, i, there, step, pieces, piece_step, MODES: tl.constexpr, PIECES: tl.constexpr):
    """The sum over pieces (rows `piece_step` apart) of the numbers of modes i, `step` apart."""
    total = tl.zeros((PIECES, MODES), tl.float64)
    for start in range(0, pieces, PIECES):
        piece = start + tl.arange(0, PIECES).to(tl.int64)
        inside = (piece < pieces)[:, None] & there[None, :]
        at = pointer + piece[:, None] * piece_step + i[None, :] * step
        total += tl.load(at, mask=inside, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def mode_gradients_kernel(
    grad_first_ptr, grad_turn_ptr,  # pieces of gradients by parts of the first coefficient, modes `step` apart; None: 0
    grad_second_ptr,  # as the second coefficient; None: zero, or, with an encoder, what follows from its gradients
    made_ptr,  # what the kernel above made
    weight_ptr, bias_ptr,  # as above
    grad_gained_ptr,  # (D, d), contiguous: G, and out: dL/dU
    grad_bias_ptr,  # (D,): c, and out: dL/db; None: there is none
    grad_w_ptr, grad_q_ptr, grad_log_dt_ptr,  # out: as the parameters
    M: tl.int64, F: tl.int64, step: tl.int64, pieces: tl.int64, piece_step: tl.int64,
    d: tl.int64, stride_row: tl.int64, stride_column: tl.int64,
    LINEAR: tl.constexpr, PAIRED: tl.constexpr, LEARNED: tl.constexpr, COMPLEX_GAIN: tl.constexpr,
    PARTS: tl.constexpr, KEPT: tl.constexpr, MADE: tl.constexpr, MODES: tl.constexpr, COLUMNS: tl.constexpr,
    PIECES: tl.constexpr,
):  # fmt: skip
    """Gradients by w, q and log dt, and by U and b in the place of those by U' and b'."""
    i = tl.program_id(0).to(tl.int64) * MODES + tl.arange(0, MODES)
    there = i < M
    zero = tl.zeros((MODES,), tl.float64)
    first = zero
    turn = zero
    second = zero
    second_turn = zero
    if grad_first_ptr is not None:
        first = summed_pieces(grad_first_ptr, i, there, step, pieces, piece_step, MODES=MODES, PIECES=PIECES)
        if PAIRED:
            turn = summed_pieces(grad_turn_ptr, i, there, step, pieces, piece_step, MODES=MODES, PIECES=PIECES)
            if not LINEAR:
                first += summed_pieces(
                    grad_first_ptr + 1, i, there, step, pieces, piece_step, MODES=MODES, PIECES=PIECES
                )
                turn -= summed_pieces(grad_turn_ptr + 1, i, there, step, pieces, piece_step, MODES=MODES, PIECES=PIECES)
    CHANNELS: tl.constexpr = 2 if PAIRED else 1
    FIRST: tl.constexpr = 4 if PAIRED and (not LINEAR) else CHANNELS
    if weight_ptr is not None:
        gain_ptr = coefficients_at(made_ptr, M, KEPT=KEPT, MADE=MADE) + FIRST * M
        for channel in tl.static_range(CHANNELS):
            row = CHANNELS * i + channel
            gain = tl.load(gain_ptr + row, mask=there, other=0.0)
            products = tl.zeros((MODES, COLUMNS), gain.dtype)
            for start in range(0, d, COLUMNS):
                k = start + tl.arange(0, COLUMNS)
                inside = there[:, None] & (k < d)[None, :]
                at = weight_ptr + row[:, None] * stride_row + k[None, :] * stride_column
                values = tl.load(at, mask=inside, other=0.0)
                to = grad_gained_ptr + row[:, None] * d + k[None, :]
                grad = tl.load(to, mask=inside, other=0.0)
                products += grad * values
                tl.store(to, gain[:, None] * grad, mask=inside)
            second += tl.sum(products, 1).to(tl.float64)
            if bias_ptr is not None:
                grad_bias = tl.load(grad_bias_ptr + row, mask=there, other=0.0)
                second += (grad_bias * tl.load(bias_ptr + row, mask=there, other=0.0)).to(tl.float64)
                tl.store(grad_bias_ptr + row, gain * grad_bias, mask=there)
    if grad_second_ptr is not None:
        if PAIRED:
            second = tl.load(grad_second_ptr + 2 * i, mask=there, other=0.0).to(tl.float64)
            second_turn = tl.load(grad_second_ptr + 2 * i + 1, mask=there, other=0.0).to(tl.float64)
            if not COMPLEX_GAIN:
                second += second_turn
                second_turn = zero
        else:
            second = tl.load(grad_second_ptr + i, mask=there, other=0.0).to(tl.float64)
    at = made_ptr + i
    for variable in tl.static_range(3):
        row = at + variable * PARTS * M
        grad = first * tl.load(row, mask=there, other=0.0)
        grad += turn * tl.load(row + M, mask=there, other=0.0)
        grad += second * tl.load(row + 2 * M, mask=there, other=0.0)
        grad += second_turn * tl.load(row + 3 * M, mask=there, other=0.0)
        if variable == 0:
            store_rounded(grad_w_ptr + i, grad, there)
        if PAIRED:
            if variable == 1:
                store_rounded(grad_q_ptr + i, grad, i < F)
        if LEARNED:
            if variable == 2:
                store_rounded(grad_log_dt_ptr + i, grad, there)


class Layout(NamedTuple):
    """What is made of a layer's M modes lies in one piece of memory: derivatives, first and second coefficient.

    Attributes:
        paired: whether modes are pairs.
        linear: whether the state is.
        gain: whether there is a second coefficient.
        kept: how many derivatives of each mode are kept: all or none.
    """

    paired: bool
    linear: bool
    gain: bool
    kept: int

    @property
    def first(self) -> int:
        """Numbers of the first coefficient, for each mode."""
        return (2 if self.linear else 4) if self.paired else 1

    @property
    def second(self) -> int:
        """Numbers of the second one."""
        return (2 if self.paired else 1) if self.gain else 0

    def room(self, modes: int, itemsize: int) -> int:
        """How many of float64 it takes with coefficients of so many bytes."""
        return self.kept * modes - (self.first + self.second) * modes * itemsize // -8

    def parts(self, made: Any, modes: int, dtype: Any) -> tuple[Any, Any]:
        """First and second coefficient as views. Of pairs the first one is (M, 2), real and imaginary part, in linear
        states; otherwise it is two such rows (2, 2 M) with a number for each channel, of which the second of a pair is
        turned the other way. The second one, (M,) or (2 M,), is twice the same for a pair, or complex.
        """
        rest, count = made[self.kept * modes :].view(dtype), self.first * modes
        shape = (modes,) if not self.paired else (modes, 2) if self.linear else (2, 2 * modes)
        second = rest[count : count + self.second * modes] if self.gain else None
        return rest[:count].view(shape), second


def layout(q: Any, kind: Any, keep: bool) -> Layout:
    """Of what `forward` makes, with derivatives if they are to be kept."""
    return Layout(q is not None, kind.linear, kind.gain != "nothing", PARTS * VARIABLES if keep else 0)


def encodes(q: Any, kind: Any) -> bool:
    """Whether `forward` takes an encoder: the gain is real, and nothing spills, as exact pairs would where states only
    rise (two scalar registers on gfx942, eight bytes on sm_80) or f is relu (eight bytes on sm_80).
    """
    spills = q is not None and kind.exact and (kind.gain == "rising" or kind.parameterization == "relu")
    return not (kind.complex_gain or spills)


def forward(
    w: Any, q: Any, log_dt: Any, made: Any, kind: Any, keep: bool, weight: Any = None, bias: Any = None,
    gained: Any = None, gained_bias: Any = None,
) -> None:  # fmt: skip
    """Writes what the kernel gives."""
    launch(mode_coefficients_kernel, (-(-w.shape[0] // MODES),))(
        w, q, log_dt, made, weight, bias, gained, gained_bias, *_sizes(w, q), kind.dt, *kind.units, *_columns(weight),
        PARAMETERIZATION=kind.parameterization, EXACT=kind.exact, LINEAR=kind.linear, PAIRED=q is not None,
        BOUNDED=kind.bounded, LEARNED=log_dt is not None, GAIN=kind.gain, COMPLEX_GAIN=kind.complex_gain,
        KEPT=layout(q, kind, keep).kept, MADE=_made_type(w), MODES=MODES, COLUMNS=MODE_COLUMNS, num_warps=MODES,
    )  # fmt: skip


def backward(
    grad_w: Any, grad_q: Any, grad_log_dt: Any, grad_first: Any, grad_turn: Any, grad_second: Any, made: Any, kind: Any,
    weight: Any = None, bias: Any = None, grad_gained: Any = None, grad_bias: Any = None,
) -> None:  # fmt: skip
    """Writes the gradients by w, q and log dt. `grad_first` and `grad_turn` are pieces (P, M) of the gradients by real
    and imaginary part, strides of any size, or (P, 2 M) of two rows; `grad_gained` and `grad_bias`, contiguous, become
    gradients by U and b.
    """
    paired = grad_q is not None
    steps = (0, 0, 0)
    if grad_first is not None:
        rows = paired and not kind.linear
        steps = (2 if rows else grad_first.stride(1), grad_first.shape[0], grad_first.stride(0))
    launch(mode_gradients_kernel, (-(-grad_w.shape[0] // MODES),))(
        grad_first, grad_turn, grad_second, made, weight, bias, grad_gained, grad_bias, grad_w, grad_q, grad_log_dt,
        *_sizes(grad_w, grad_q), *steps, *_columns(weight),
        LINEAR=kind.linear, PAIRED=paired, LEARNED=grad_log_dt is not None, COMPLEX_GAIN=kind.complex_gain,
        PARTS=PARTS, KEPT=PARTS * VARIABLES, MADE=_made_type(grad_w), MODES=MODES, COLUMNS=MODE_COLUMNS,
        PIECES=MODE_PIECES, num_warps=MODES,
    )  # fmt: skip


def _made_type(w: Any) -> Any:
    """The dtype of coefficients made of w: float32 at least."""
    return tl.float64 if w.element_size() == 8 else tl.float32


def _sizes(w: Any, q: Any) -> tuple[int, int]:
    """Modes and free frequencies."""
    return w.shape[0], 0 if q is None else q.shape[0]


def _columns(weight: Any) -> tuple[int, int, int]:
    """Inputs of the encoder, and its strides."""
    return (0, 0, 0) if weight is None else (weight.shape[1], *weight.stride())
