"""The derived bounds: never too small for any way of computing, never so large that a mistake fits in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scan_cases import COMPLEX, REAL, decays, linear_case, normal, paired_case, rnn_case

from cofm_triton import functional, reference
from cofm_triton.evidence.tolerance import (
    Bound,
    increment_bounds,
    linear_scan_bounds,
    rnn_readout_bounds,
    rnn_scan_bounds,
    sweep_errors_bounds,
    sweep_gradients_bounds,
    unit_roundoff,
)
from cofm_triton.evidence.validation.operators.memory_increment import increment_case
from cofm_triton.evidence.validation.operators.perturbation import SweepCase, sweep_case
from cofm_triton.evidence.validation.operators.rnn_readout import DT, ReadoutCase, readout_case
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.nonlinearity import NONLINEARITIES


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
def test_unit_roundoff_is_the_largest_that_is_lost(dtype: torch.dtype) -> None:
    one, u = torch.ones((), dtype=dtype), unit_roundoff(dtype)
    assert one + u == one  # a tie, which goes to the even neighbour
    assert one + 2 * u != one


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("starts", [None, [0, 7, 7, 20]])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("seed", [10, 11])
def test_the_definition_keeps_the_bounds(
    seed: int, reverse: bool, starts: list[int] | None, gated: bool, dtype: torch.dtype
) -> None:
    case = linear_case(1, 30, 3, dtype=dtype, gated=gated, reverse=reverse, starts=starts)
    case = case.with_(x=normal(1, 30, 3, dtype=dtype, seed=seed))
    assert case.h0 is not None
    leaves = [t.detach().requires_grad_() for t in (case.x, case.factor, case.h0)]
    results = reference.linear_scan(*leaves, **case.options)
    results = (results[0], results[1].to(case.h0.dtype))
    grads = torch.autograd.grad(results, leaves, [case.grad_h, case.grad_last])
    bounds = linear_scan_bounds(case.x, case.factor, case.h0, case.grad_h, case.grad_last, **case.options)
    assert bounds["h"].excess(results[0]) <= 1
    # In 16 bits the definition rounds h_last to the dtype of x, and autograd its gradients on the way.
    if dtype == state_dtype(dtype):
        for name, value in zip(bounds, (*results, *grads), strict=True):
            assert bounds[name].excess(value) <= 1, name


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nonlinear_definition_keeps_the_bounds(dtype: torch.dtype, nonlinearity: str) -> None:
    for starts in (None, [0, 7, 7, 20]):
        case = rnn_case(1, 30, 3, dtype=dtype, nonlinearity=nonlinearity, starts=starts)
        assert case.h0 is not None
        leaves = [t.detach().requires_grad_() for t in (case.x, case.factor, case.h0)]
        results = reference.rnn_scan(*leaves, **case.options)
        grads = torch.autograd.grad(results, leaves, [case.grad_h, case.grad_last])
        bounds = rnn_scan_bounds(case.x, case.factor, case.h0, case.grad_h, case.grad_last, **case.options)
        for name, value in zip(bounds, (*results, *grads), strict=True):
            assert bounds[name].excess(value) <= 1, name


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_definition_of_pairs_keeps_the_bounds(dtype: torch.dtype, nonlinearity: str) -> None:
    for starts in (None, [0, 7, 7, 20]):
        case = paired_case(1, 30, 3, dtype=dtype, nonlinearity=nonlinearity, starts=starts)
        bounds, results = case.bounds(), case.run("reference")
        assert bounds.keys() == results.keys()
        for name, value in results.items():
            assert bounds[name].excess(value) <= 1, name


def test_bounds_of_pairs_that_turn_do_not_grow_with_time() -> None:
    """Magnitudes of entries would: each step of a turn by pi / 4 multiplies them by sqrt(2)."""
    case = paired_case(1, 300, 2, nonlinearity="linear", states=False)
    x, _, _, _ = case.tensors
    slow = torch.full((2,), 0.01)
    turning = replace(case, tensors=(x, slow, torch.full((2,), torch.pi / 4 / 0.7), None))
    bounds = turning.bounds()
    size = bounds["h"].exact.abs().max()
    # A step rounds some ten times, and the decay of 0.7% a step remembers 140 of them.
    assert bounds["h"].error.max() < 10 * 300 * 2.0**-24 * size


@pytest.mark.parametrize("result", ["h", "grad_x", "grad_rate", "grad_frequency", "grad_h0"])
def test_a_wrong_turn_is_outside_the_bounds(result: str) -> None:
    case = paired_case(2, 20, 3, nonlinearity="tanh")
    x, rate, frequency, h0 = case.tensors
    assert frequency is not None
    wrong = replace(case, tensors=(x, rate, frequency * 1.01, h0)).run("reference")
    assert case.bounds()[result].excess(wrong[result]) > 1


@pytest.mark.parametrize("order", ["forwards", "backwards", "pairwise", "blocks"])
def test_any_order_of_evaluation_keeps_the_bound(order: str) -> None:
    """h[T-1] as a sum of `a^(T-1-t) x[t]` in float32, powers by repeated multiplication."""
    length = 256
    x, decay = normal(1, length, 3, seed=3), decays(3)
    powers = torch.stack([decay] * length)
    powers[0] = 1
    powers = powers.cumprod(0).flip(0)
    terms = powers * x[0]
    if order == "backwards":
        terms = terms.flip(0)
    if order == "pairwise":
        while len(terms) > 1:
            terms = terms[::2] + terms[1::2]
    elif order == "blocks":
        terms = torch.stack([block.cumsum(0)[-1] for block in terms.split(16)])
    total = torch.zeros(3)
    for term in terms:
        total = total + term
    assert linear_scan_bounds(x, decay)["h_last"].excess(total[None]) <= 1


WRONG = {
    "a decay off by a thousandth": lambda x, a, h0: reference.linear_scan(x, a * 1.001, h0),
    "no initial state": lambda x, a, h0: reference.linear_scan(x, a, None),
    "one step late": lambda x, a, h0: reference.linear_scan(x.roll(1, 1), a, h0),
    "reversed": lambda x, a, h0: reference.linear_scan(x, a, h0, reverse=True),
    "decay after the input": lambda x, a, h0: tuple(t * a for t in reference.linear_scan(x, a, h0)),
    "a 16-bit state": lambda x, a, h0: reference.linear_scan(x, a.bfloat16().to(a.dtype), h0),
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [7, 300])
def test_mistakes_are_far_outside(length: int, dtype: torch.dtype, mistake: str) -> None:
    case = linear_case(2, length, 3, dtype=dtype)
    assert case.h0 is not None
    h, h_last = WRONG[mistake](case.x, case.factor, case.h0)
    bounds = linear_scan_bounds(case.x, case.factor, case.h0)
    assert bounds["h"].excess(h) > 10
    if mistake != "no initial state":  # forgotten by then
        assert bounds["h_last"].excess(h_last) > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 33, 300])
def test_bounds_are_small_beside_the_values(length: int, dtype: torch.dtype) -> None:
    """Some units of roundoff for each step that a state remembers, of which there are about 1 / (1 - |a|) = 10."""
    unit = unit_roundoff(dtype)
    for case in (linear_case(2, length, 3, dtype=dtype), rnn_case(2, length, 3, dtype=dtype, nonlinearity="tanh")):
        bounds = case.bounds_of(case.x, case.factor, case.h0, case.grad_h, case.grad_last, **case.options)
        for name in ("h", "grad_x"):
            bound = bounds[name]
            assert bound.error.median() < 300 * unit * bound.exact.abs().max(), name


@pytest.mark.parametrize("parameterization", ["exp", "softplus"])
def test_steps_beyond_one_have_bounds(parameterization: str) -> None:
    x, w, grad = normal(1, 9, 2), torch.tensor([0.4, 0.5]), normal(1, 9, 2)
    options = dict(dt=2.0, nonlinearity="tanh", parameterization=parameterization, discretization="euler")
    bounds = rnn_scan_bounds(x, w, grad_h=grad, **options)
    assert all(bool(bound.error.isfinite().all()) for bound in bounds.values())
    h, _ = functional.rnn_scan(x, w.requires_grad_(), backend="torch", **options)
    (by_w,) = torch.autograd.grad(h, w, grad)
    assert bounds["h"].excess(h) <= 1 and bounds["grad_rate"].excess(by_w) <= 1


def test_bounds_scale_with_the_unit_roundoff() -> None:
    case = linear_case(2, 50, 3, dtype=torch.float32)
    arguments = [t for t in (case.x, case.factor, case.h0, case.grad_h, case.grad_last) if t is not None]
    narrow = linear_scan_bounds(*arguments)
    wide = linear_scan_bounds(*(t.double() for t in arguments))
    for name in narrow:
        torch.testing.assert_close(narrow[name].exact, wide[name].exact, rtol=1e-12, atol=1e-12)
        # The exact value has the error of float64 itself, once more.
        ratio = (narrow[name].error / wide[name].error).median()
        assert 2.0**27 < ratio < 2.0**30


def test_a_jump_within_reach_leaves_the_gradient_open() -> None:
    # z = 1 exactly: rounding decides between the slopes 0 and 1.
    x, weights = torch.tensor([[[1.0], [0.2]]]), torch.ones(1, 2, 1)
    bounds = rnn_scan_bounds(x, torch.tensor([0.5]), grad_h=weights, nonlinearity="hardtanh")
    assert bounds["grad_x"].error[0, 0, 0] > 1
    assert bounds["grad_x"].error[0, 1, 0] < 1e-5
    assert bounds["h"].error.max() < 1e-5


READOUTS = {
    "linear": readout_case(2, 40, 6),
    "tanh": readout_case(2, 40, 6, act_in="tanh"),
    "hardtanh": readout_case(2, 40, 6, act_in="hardtanh"),
    "tanh-of-linear": readout_case(2, 40, 6, act_out="tanh"),
}
SHIFTED = dict(zip(("x", "weight", "bias", "rate", "readout"), range(5), strict=True))


def readout_definition(case: ReadoutCase, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """y and all gradients, in the dtype of the tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    x, weight, bias, rate, readout, offset = leaves
    h, _ = reference.rnn_scan(x @ weight.T + bias, rate, dt=DT, nonlinearity=case.act_in)
    y = reference.nonlinearity(case.act_out).act(h) @ readout.T + offset
    return [y, *torch.autograd.grad(y, leaves, case.pull)]


@pytest.mark.parametrize("kind", READOUTS)
def test_the_definition_keeps_the_bounds_of_the_read_out(kind: str) -> None:
    case = READOUTS[kind]
    bounds = rnn_readout_bounds(case.tensors, case.pull, dt=DT, act_in=case.act_in, act_out=case.act_out)
    for (name, bound), value in zip(bounds.items(), readout_definition(case, case.tensors), strict=True):
        assert bound.excess(value) <= 1, name
        if name in ("y", "grad_x"):  # some roundings of each step that is remembered, and of each term
            assert bound.error.median() < 300 * unit_roundoff(torch.float32) * bound.exact.abs().max(), name


@pytest.mark.parametrize("moved", SHIFTED)
@pytest.mark.parametrize("kind", READOUTS)
def test_a_thousandth_is_far_outside_the_bounds_of_the_read_out(kind: str, moved: str) -> None:
    case = READOUTS[kind]
    bounds = rnn_readout_bounds(case.tensors, case.pull, dt=DT, act_in=case.act_in, act_out=case.act_out)
    wrong = [tensor * (1.001 if index == SHIFTED[moved] else 1) for index, tensor in enumerate(case.tensors)]
    assert bounds["y"].excess(readout_definition(case, tuple(wrong))[0]) > 10


def sweep_definition(case: SweepCase, factor: float = 1.0) -> torch.Tensor:
    """Errors in the dtype of the case, with rates off by a factor."""
    errors = []
    for weight, bias, rate, readout, offset in case.models:
        drive = case.x @ weight.T + bias
        recurrence = reference.dense_rnn if rate.dim() == 2 else reference.rnn_scan
        h, _ = recurrence(drive, factor * rate, dt=0.5, nonlinearity=case.act_in)
        gap = reference.nonlinearity(case.act_out).act(h) @ readout.T + offset - case.targets
        gap = gap.double()
        errors.append(gap.abs().max() if case.weights is None else (case.weights[:, None] * gap**2).sum())
    return torch.stack(errors)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("act_in", ["linear", "tanh", "hardtanh"])
@pytest.mark.parametrize("operator", ["perturbation", "dense_perturbation"])
def test_bounds_of_the_sweep_let_the_definition_pass_and_nothing_else(
    operator: str, act_in: str, largest: bool
) -> None:
    case = sweep_case(3, 40, 6, act_in=act_in, largest=largest, operator=operator)
    given = (case.models, case.x, case.targets, case.weights)
    bound = sweep_errors_bounds(*given, dt=0.5, act_in=case.act_in, act_out=case.act_out)["errors"]
    assert bound.excess(sweep_definition(case)) <= 1
    assert bound.excess(sweep_definition(case, 1.001)) > 1


@pytest.mark.parametrize("act_in", ["linear", "tanh", "hardtanh"])
def test_bounds_of_the_gradients_of_the_sweep_let_the_definition_pass_and_nothing_else(act_in: str) -> None:
    case = sweep_case(3, 40, 6, act_in=act_in)
    assert case.weights is not None
    given = (case.models, case.x, case.targets, case.weights)
    bounds = sweep_gradients_bounds(*given, dt=0.5, act_in=case.act_in, act_out=case.act_out)
    names = ("weight", "bias", "rate", "readout", "offset")
    for scale in (1.0, 1.001):
        models = tuple(tuple(tensor.clone().requires_grad_() for tensor in model) for model in case.models)
        errors = sweep_definition(replace(case, models=models))
        for k, model in enumerate(models):
            for name, gradient in zip(names, torch.autograd.grad(errors[k], model, retain_graph=True), strict=True):
                exact, error = (part[k] for part in bounds[f"grad_{name}"])
                excess = Bound(exact, error).excess(scale * gradient.double())
                assert excess <= 1 if scale == 1 else excess > 1, (name, excess)


@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh", "relu"])
def test_bounds_of_increments_let_the_definition_pass_and_nothing_else(nonlinearity: str) -> None:
    case = increment_case(3, 40, 5, nonlinearity=nonlinearity)
    given = (case.drive, case.decay, case.step, case.readout, case.steps)
    bound = increment_bounds(*given, nonlinearity=nonlinearity)["increments"]
    act = reference.nonlinearity(nonlinearity).act
    z, rows = case.drive, []
    for _ in range(int(case.steps[-1]) + 1):
        rows.append(act(z) @ case.readout.mT)
        # Another order than that of the bound's exact values.
        z = case.decay[:, None] * z + case.step[:, None] * (z - act(z))
    values = torch.stack(rows, 2)[:, :, case.steps]
    assert bound.excess(values) <= 1
    assert bound.excess(values * (1 + 1e-9)) > 10


def test_excess() -> None:
    bound = Bound(torch.tensor([1.0, torch.inf, torch.nan]), torch.tensor([0.5, torch.nan, torch.nan]))
    assert bound.excess(torch.tensor([1.25, torch.inf, torch.nan])) == 0.5
    assert bound.excess(torch.tensor([1.0, 0.0, torch.nan])) == torch.inf
    assert bound.excess(torch.tensor([torch.nan, torch.inf, torch.nan])) == torch.inf
    assert bound.excess(torch.tensor([1.0, torch.inf, 0.0])) == torch.inf
    with pytest.raises(ValueError, match=r"actual must have shape \(3,\), got \(2,\)"):
        bound.excess(torch.zeros(2))
    assert Bound(torch.zeros(0), torch.zeros(0)).excess(torch.zeros(0)) == 0
