"""The recurrences as functions. Arguments are checked here, once, and passed on to the operator."""

from __future__ import annotations

from torch import Tensor

from cofm_triton.ops.backends import resolve
from cofm_triton.ops.checks import (
    check_decay,
    check_logits,
    check_matrix,
    check_nonlinearity,
    check_per_channel,
    check_per_pair,
    check_precision,
    check_rates,
    check_resets,
    check_seq_starts,
    check_sequence,
    check_states,
    check_step,
)
from cofm_triton.ops.dense_rnn import apply_dense_rnn
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.gated_rnn import apply_gated_rnn
from cofm_triton.ops.linear_scan import apply_linear_scan, small_linear_scan
from cofm_triton.ops.paired_rnn_scan import apply_paired_rnn_scan
from cofm_triton.ops.rnn_scan import apply_rnn_scan, small_rnn_scan
from cofm_triton.ops.shapes import resets_against
from cofm_triton.ops.small_calls import Kept, signature_of
from cofm_triton.step.discretization import is_exact
from cofm_triton.step.gates import gates_of
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.pairs import in_pairs
from cofm_triton.step.parameterization import Parameterization
from cofm_triton.step.parameterization import parameterization as look_up
from cofm_triton.step.step_rate import step_rate
from cofm_triton.support.scalars import check_bool

SOLVERS = ("auto", "sequential")
PLAIN = ("direct", "euler")  # rates as they are
_LINEAR, _RNN = Kept(), Kept()


def linear_scan(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None = None,
    *,
    reverse: bool = False,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Linear recurrence `h[t] = decay[t] * h[t-1] + x[t]`, `h[-1] = h0`, for t = 0..T-1.

    The state is kept in float32 (float64 for float64 input, complex64 / complex128 for complex), whatever the dtype of
    the tensors. Differentiable in x, decay and h0, through both results, to any order and in forward mode.

    With a real x and a complex decay, channels turn in pairs: (2k, 2k+1) of x, h0 and the results are the real and the
    imaginary part of complex channel k. Nothing is copied. The state is complex64 (complex128 for float64 input);
    16-bit tensors are read and written in 16 bits.

    Args:
        x: (B, T, D) input, float16, bfloat16, float32, float64, complex64 or complex128; any strides, any T >= 0. D
            must be even if x is real and decay complex.
        decay: (D,), constant in time, or gates that broadcast to (B, T, D) and are not expanded in memory. In x's dtype
            or the state's; for 16-bit inputs float32 is better. With pairs, (D // 2,) or gates that broadcast to
            (B, T, D // 2), in the dtype of the complex state.
        h0: (B, D) initial state, zeros when None; (S, D) with `seq_starts`. In x's dtype or the state's.
        reverse: run from t = T-1 down to 0; h0 enters at the end, and h_last is the state at t = 0.
        seq_starts: (S,) int32 or int64, where sequences packed into one row (B = 1) start. The first is 0; T at the end
            would be one more, empty sequence. Each sequence has its own initial state, and no gradient crosses a
            boundary.
        resets: (B, T) bool, True where an episode begins: the sequence is cut between t-1 and t, in reverse too. Every
            piece is run as if alone, and no gradient crosses a cut. One byte a step is read; packed, (1, T).
        reset_to: the state that pieces after a cut start from: "h0", whose gradient is summed over pieces, or "zero".
            Where h0 is the state carried over from an earlier chunk, "zero" is meant: only a first piece without a
            reset goes on from h0.
        backend: "triton", "cpu" ("numba" or "torch"), "reference"; None picks the fastest that can run the tensors.

    Returns:
        h: (B, T, D) all states, in x's dtype.
        h_last: (B, D), or (S, D), the last state of every sequence, in h0's dtype (x's when h0 is None); h0 if T = 0.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not accepted.
        ValueError: a shape, device, value or backend is not accepted.

    Example:
        >>> import torch
        >>> h, h_last = linear_scan(torch.ones(1, 3, 1), torch.tensor([0.5]))
        >>> h.flatten().tolist(), h_last.tolist()
        ([1.0, 1.5, 1.75], [[1.75]])

        A quarter turn a step:

        >>> h, _ = linear_scan(torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]), torch.tensor([1j]))
        >>> h[0].tolist()
        [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]

        A new episode at step 1; the first one goes on from h0:

        >>> resets = torch.tensor([[False, True, False]])
        >>> x, decay, h0 = torch.ones(1, 3, 1), torch.tensor([0.5]), torch.ones(1, 1)
        >>> h, _ = linear_scan(x, decay, h0, resets=resets, reset_to="zero")
        >>> h.flatten().tolist()
        [1.5, 1.0, 1.5]

    Source: arXiv 2305.19190, Eq. (1) with linear sigma and diagonal W, complex for oscillating modes; defined in
    `cofm_triton.reference.linear_scan`.
    """
    key = signature_of((x, decay, h0), (reverse, seq_starts, resets, reset_to, backend))
    if key is not None and (small := _LINEAR.calls.get(key)) is not None:
        found: tuple[Tensor, Tensor] = small(x, decay, h0)
        return found
    check_sequence("x", x, allow_complex=True)
    check_decay("decay", decay, x)
    reverse = check_bool("reverse", reverse)
    check_seq_starts(seq_starts, x)
    check_states("h0", h0, x, seq_starts)
    check_resets(resets, reset_to, x)
    chosen = resolve(backend, x.device)
    if chosen == "reference":
        from cofm_triton.reference import linear_scan as definition

        cuts = dict(seq_starts=seq_starts, resets=resets)
        return definition(x, decay, h0, reverse=reverse, reset_to=reset_to, **cuts)
    if chosen == "numba" and seq_starts is None and resets is None:
        _LINEAR.keep(key, lambda: small_linear_scan(x, decay, h0, reverse))
    decay = _one_or_three_axes(decay, x)
    if reverse:
        resets = resets_against(resets, seq_starts, reverse)
    return apply_linear_scan(x, decay, h0, seq_starts, reverse, chosen, resets, reset_to)


def _one_or_three_axes(decay: Tensor, x: Tensor) -> Tensor:
    """A decay that is constant in time as (D,) in the dtype of the state, gates with three axes: themselves mostly."""
    if decay.dim() == 1 and decay.shape == x.shape[2:] and decay.dtype == state_dtype(x.dtype):
        return decay  # small problems wait for the host
    if any(size != 1 for size in decay.shape[:-1]):
        return decay if decay.dim() == 3 else decay.reshape((1,) * (3 - decay.dim()) + decay.shape)
    paired = in_pairs(x, decay)
    width = x.shape[2] // 2 if paired else x.shape[2]
    if decay.shape != (width,):
        decay = decay.reshape(decay.shape[-1:] or (1,)).expand(width)
    return decay if paired else decay.to(state_dtype(x.dtype))


def gated_rnn(
    x: Tensor,
    rate: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    gates: str = "rg_lru",
    angle: Tensor | None = None,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated linear recurrence `h[t] = decay[t] * h[t-1] + gain[t] * x[t]`, `h[-1] = h0`.

    The decay is exp(-rate * s[t]). The strength s > 0 comes from logits p = rate_logit and q = input_logit, so that
    decays stay in (0, 1] for every weight and every input. Decays, gains and products are formed inside the kernels and
    never stored.

        gates       s                                         gain                              rate of the paper
        "rg_lru"    sigmoid(p)                                sqrt(1 - decay^2) sigmoid(q)      c softplus(-Lambda)
        "mingru"    softplus(p), decay = 1 - sigmoid(p)       1 - decay                         1
        "minlstm"   softplus(softplus(-p) - softplus(-q))     1 - decay                         1
        "s6"        softplus(p), the step size                s                                 -A

    With rate 1, "minlstm" has decay f / (f + i), f = sigmoid(p), i = sigmoid(q). With "s6", x is the product of input
    and B[t].

    The state is kept, and gates are formed, in float32 (float64 for float64 input). Differentiable in all tensors,
    through both results, to any order and in forward mode. Each sequence is one chain: for few sequences and channels
    on a GPU, `linear_scan`, which splits time, may be faster.

    Args:
        x: (B, T, D) values, float16, bfloat16, float32 or float64; any strides, any T >= 0.
        rate: (D,), >= 0, per step. In x's dtype or the state's.
        rate_logit: p, like x; any strides.
        input_logit: q, like x; for "rg_lru" and "minlstm", which need it, only.
        h0: (B, D) initial state, zeros when None; (S, D) with `seq_starts`. In x's dtype or the state's.
        gates: a row of the table.
        angle: (D // 2,), radians per step, or None. Pairs of channels (2k, 2k+1) of h[t-1] are turned by it before they
            decay; each channel keeps its own gates. D must be even.
        seq_starts: (S,) int32 or int64, where sequences packed into one row (B = 1) start. The first is 0; T at the end
            would be one more, empty sequence.
        resets: (B, T) bool, True where an episode begins: the state before such a step is a start state, and no
            gradient crosses. Packed, (1, T). See `linear_scan`.
        reset_to: which start state, "h0" or "zero". Where h0 is carried over from an earlier chunk, "zero" is meant.
        backend: "triton", "cpu" ("numba" or "torch"), "reference"; None picks the fastest that can run the tensors.

    Returns:
        h: (B, T, D) all states, in x's dtype.
        h_last: (B, D), or (S, D), the last state of every sequence, in h0's dtype (x's when h0 is None); h0 if T = 0.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not accepted.
        ValueError: a shape, device, name or backend is not accepted, or a logit is missing or too many.

    Example:
        >>> import torch
        >>> h, _ = gated_rnn(torch.ones(1, 2, 1), torch.ones(1), torch.zeros(1, 2, 1), gates="mingru")
        >>> h.flatten().tolist()
        [0.5, 0.75]
        >>> resets, p = torch.tensor([[False, True]]), torch.zeros(1, 2, 1)
        >>> h, _ = gated_rnn(torch.ones(1, 2, 1), torch.ones(1), p, gates="mingru", resets=resets)
        >>> h.flatten().tolist()
        [0.5, 0.5]

    Source: arXiv 2402.19427, eq 1-4; arXiv 2410.01201, section 3; arXiv 2312.00752, algorithm 2; defined in
    `cofm_triton.reference.gated_rnn`.
    """
    check_sequence("x", x, allow_complex=False)
    check_per_channel("rate", rate, x)
    row = gates_of(gates)
    check_logits("rate_logit", rate_logit, x)
    if row.has_input_logit:
        check_logits("input_logit", input_logit, x)
    elif input_logit is not None:
        raise ValueError(f"input_logit must be None with gates={gates!r}, whose input has no gate")
    if angle is not None:
        check_per_pair("angle", angle, x)
    check_seq_starts(seq_starts, x)
    check_states("h0", h0, x, seq_starts)
    check_resets(resets, reset_to, x)
    chosen, state = resolve(backend, x.device), state_dtype(x.dtype)
    if chosen == "reference":
        from cofm_triton.reference import gated_rnn as definition

        return definition(
            x, rate, rate_logit, input_logit, h0,
            gates=gates, angle=angle, seq_starts=seq_starts, resets=resets, reset_to=reset_to,
        )  # fmt: skip
    angle = None if angle is None else angle.to(state)
    tensors = (x, rate_logit, input_logit, rate.to(state), angle, h0)
    return apply_gated_rnn(*tensors, seq_starts, gates, chosen, resets, reset_to)


def rnn_scan(
    x: Tensor,
    rate: Tensor,
    h0: Tensor | None = None,
    *,
    frequency: Tensor | None = None,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    solver: str = "auto",
    parameterization: str | Parameterization = "direct",
    discretization: str = "euler",
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Diagonal nonlinear recurrence `h[t] = h[t-1] + dt * act(x[t] - rate * h[t-1])`, `h[-1] = h0`.

    The state is kept in float32 (float64 for float64 input). Differentiable in x, rate, frequency and h0, through both
    results, to any order and in forward mode; at the kinks of hardtanh and relu the subgradient is PyTorch's, 0.

    Rates may vary in time, as gates do. Where 0 < dt * rate <= 1, a step takes the state nearer to x / rate, and not
    past it: |h[t]| <= max(|h[t-1]|, |x[t] / rate[t]|), whatever the rates of other steps were. `parameterization` with
    positive rates ("exp", "softplus", "inverse") and `discretization="exact"` are in that range for every raw weight.

    With `frequency`, channels (2k, 2k+1) are a pair that decays with a rate r and turns with a frequency w:
    `h[t] = h[t-1] + dt * act(x[t] - A h[t-1])` with A = [[r, -w], [w, r]] ("euler"), or
    A = (I - exp(-dt [[r, -w], [w, r]])) / dt ("exact"). Exact pairs with r > 0 are stable in this sense: they decay
    where act is linear, come to rest under a constant input, and stay bounded under bounded inputs. But gradients may
    grow along inputs that saturate one unit of a pair and not the other. They never do if dt * w is at most
    `cofm_triton.step.oscillation.contracting_angle`.

    Args:
        x: (B, T, D) pre-activations `U x + b`, float16, bfloat16, float32 or float64; any strides, any T >= 0.
        rate: (D,) decay rates, 1 / time, or raw weights w, see `parameterization`; (B, T, D), any strides, where they
            vary in time; (D // 2,) with `frequency`, constant in time. In x's dtype or the state's.
        h0: (B, D) initial state, zeros when None; (S, D) with `seq_starts`. In x's dtype or the state's.
        frequency: (D // 2,), radians / time, of either sign, in a dtype that `rate` may have. D must be even.
        dt: time step, > 0.
        nonlinearity: act: "linear", "tanh", "hardtanh" or "relu".
        solver: "sequential", or "auto", which runs few long sequences parallel in time on a GPU, unless act is relu:
            chunks of a sequence start from guessed states, which are checked and repaired (docs/backends.md has the
            rule). Both give the same bits. On the CPU they are the same.
        parameterization: f, one of `PARAMETERIZATIONS` or what `cofm.parameterization` gives. The decay rates are
            f(rate): "direct" takes `rate` as it is. The kernels form f and its derivative, in the dtype of the state;
            with `frequency`, for numbers of f that are not the usual ones, and for rates (B, T, D), PyTorch does.
        discretization: "euler" takes the decay rates r as they are, "exact" takes (1 - exp(-dt r)) / dt instead.
        seq_starts: (S,) int32 or int64, where sequences packed into one row (B = 1) start. The first is 0; T at the end
            would be one more, empty sequence.
        resets: (B, T) bool, True at the first step of an episode: the state before it is the start, and no gradient
            crosses. The result is that of each piece alone.
        reset_to: the start after a reset, "h0" (its gradient is the sum over pieces) or "zero". Where h0 is carried
            from an earlier chunk of the same sequence, episodes start from "zero"; a reset at t = 0 then drops h0.
        backend: "triton", "cpu" ("numba" or "torch"), "reference"; None picks the fastest that can run the tensors.

    Returns:
        h: (B, T, D) all states, in x's dtype.
        h_last: (B, D), or (S, D), the last state of every sequence, in h0's dtype (x's when h0 is None); h0 if T = 0.

    Raises:
        TypeError: an argument is no tensor, dt no number, or a dtype is not accepted.
        ValueError: a shape, device, value, name or backend is not accepted.

    Example:
        >>> import torch
        >>> h, _ = rnn_scan(torch.full((1, 3, 1), 5.0), torch.tensor([1.0]))
        >>> h.flatten().tolist()
        [1.0, 2.0, 3.0]
        >>> start_again = torch.tensor([[False, False, True]])
        >>> h, _ = rnn_scan(torch.full((1, 3, 1), 5.0), torch.tensor([1.0]), resets=start_again)
        >>> h.flatten().tolist()
        [1.0, 2.0, 1.0]
        >>> forgets = torch.tensor([[[0.0], [0.0], [1.0]]])  # 1 / dt at the last step: the state goes to x / rate
        >>> h, _ = rnn_scan(torch.full((1, 3, 1), 0.5), forgets)
        >>> h.flatten().tolist()
        [0.5, 1.0, 0.5]
        >>> quarter, start = torch.tensor([torch.pi / 2]), torch.tensor([[0.5, 0.0]])
        >>> h, _ = rnn_scan(torch.zeros(1, 4, 2), 0 * quarter, start, frequency=quarter, discretization="exact")
        >>> h.round(decimals=3).abs().tolist()
        [[[0.0, 0.5], [0.5, 0.0], [0.0, 0.5], [0.5, 0.0]]]

    Source: arXiv 2305.19190, Eq. (1) with W = -diag(rate), Euler's method; `cofm_triton.reference.rnn_scan`. Pairs:
    the real modal form of any W that is diagonalisable over the complex numbers; `cofm_triton.reference.oscillation`.
    """
    options = (
        frequency, dt, nonlinearity, solver, parameterization, discretization, seq_starts, resets, reset_to, backend
    )  # fmt: skip
    key = signature_of((x, rate, h0), options)
    if key is not None and (small := _RNN.calls.get(key)) is not None:
        found: tuple[Tensor, Tensor] = small(x, rate, h0)
        return found
    check_sequence("x", x, allow_complex=False)
    if frequency is None:
        check_rates("rate", rate, x)
    else:
        check_per_pair("rate", rate, x)
        check_per_pair("frequency", frequency, x)
    dt = check_step(dt)
    check_nonlinearity(nonlinearity)
    if solver not in SOLVERS:
        gone = "; 'auto' is parallel in time without it, to the bit" if solver == "newton" else ""
        raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}{gone}")
    kind = look_up(parameterization)
    is_exact(discretization)
    check_seq_starts(seq_starts, x)
    check_resets(resets, reset_to, x)
    check_states("h0", h0, x, seq_starts)
    chosen = resolve(backend, x.device)
    if chosen == "reference":
        from cofm_triton import reference

        rate = reference.parameterization(kind.name).rate(rate.to(state_dtype(x.dtype)))
        if frequency is None:
            rate = reference.effective_rate(rate, dt, discretization)
        else:
            rate, frequency = reference.effective_pair(rate, frequency.to(rate.dtype), dt, discretization)
        return reference.rnn_scan(
            x, rate, h0, dt=dt, nonlinearity=nonlinearity, frequency=frequency, seq_starts=seq_starts, resets=resets,
            reset_to=reset_to,
        )  # fmt: skip
    state = state_dtype(x.dtype)
    if frequency is not None:
        rate = kind.rate(rate.to(state))
        alpha, omega = effective_pair(rate, frequency.to(state), dt, discretization)
        return apply_paired_rnn_scan(
            x, alpha, omega, h0, seq_starts, dt, nonlinearity, chosen, solver, resets, reset_to
        )
    given, kinds = rate, (kind.name, discretization)
    if rate.dim() == 3:
        rate = rate if kinds == PLAIN else step_rate(rate.to(state), dt, *kinds)
        kinds = PLAIN
    elif rate.dtype != state:
        rate = rate.to(state)
    if chosen == "numba" and seq_starts is None and resets is None and rate is given:
        _RNN.keep(key, lambda: small_rnn_scan(x, rate, h0, dt, nonlinearity, *kinds))
    return apply_rnn_scan(x, rate, h0, seq_starts, dt, nonlinearity, chosen, solver, *kinds, resets, reset_to)


def dense_rnn(
    x: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    precision: str = "ieee",
    resets: Tensor | None = None,
    reset_to: str = "h0",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Dense nonlinear recurrence `h[t] = h[t-1] + dt * act(x[t] - weight @ h[t-1])`, `h[-1] = h0`.

    The state is kept, and the product formed, in float32 (float64 for float64 input). Differentiable in x, weight and
    h0, through both results, to any order and in forward mode; at the kinks of hardtanh and relu the subgradient is
    PyTorch's, 0. The gradient of the weight is one large matrix product after the loop over time.

    Args:
        x: (B, T, D) pre-activations `U x + b`, float16, bfloat16, float32 or float64; any strides, any T >= 0.
        weight: (D, D), 1 / time; row i drives unit i. In x's dtype or the state's.
        h0: (B, D) initial state, zeros when None. In x's dtype or the state's.
        dt: time step, > 0.
        nonlinearity: act: "linear", "tanh", "hardtanh" or "relu".
        precision: of float32 products in Triton kernels. "ieee": fused multiply-adds. "tf32x3": kernels for more than
            256 channels use tensor cores of NVIDIA GPUs, three products for one, with errors of a few float32 roundings
            per term; for fewer channels it changes nothing. Products by PyTorch (the gradient of the weight, the
            "torch" backend) follow `torch.set_float32_matmul_precision`.
        resets: (B, T) bool, True where a new episode begins: the state before that step is the start state, and no
            gradient crosses. A byte per step is read.
        reset_to: the start state of episodes, "h0" or "zero". h0's gradient is the sum over all that start from it.
            Where h0 is the state that a chunk of a longer sequence carries on from, take "zero".
        backend: "triton", "cpu" ("numba" or "torch"), "reference"; None picks the fastest that can run the tensors.

    Returns:
        h: (B, T, D) all states, in x's dtype.
        h_last: (B, D), the last state, in h0's dtype (x's when h0 is None); h0 if T = 0.

    Raises:
        TypeError: an argument is no tensor, dt no number, or a dtype is not accepted.
        ValueError: a shape, device, value, name or backend is not accepted.

    Example:
        >>> import torch
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> h, _ = dense_rnn(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), swap)
        >>> h[0].tolist()
        [[1.0, 0.0], [1.0, -1.0]]

    Source: arXiv 2305.19190, Eq. (1) with W = -weight, Euler's method; `cofm_triton.reference.dense_rnn`.
    """
    check_sequence("x", x, allow_complex=False)
    check_matrix("weight", weight, x)
    dt = check_step(dt)
    check_nonlinearity(nonlinearity)
    check_precision(precision)
    check_states("h0", h0, x, None)
    check_resets(resets, reset_to, x)
    chosen = resolve(backend, x.device)
    if chosen == "reference":
        from cofm_triton.reference import dense_rnn as definition

        return definition(x, weight, h0, dt=dt, nonlinearity=nonlinearity, resets=resets, reset_to=reset_to)
    return apply_dense_rnn(x, weight, h0, resets, reset_to, dt, nonlinearity, precision, chosen)
