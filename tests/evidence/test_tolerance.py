"""The derived bounds: never too small for any way of computing, never so large that a mistake fits in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from scan_cases import COMPLEX, REAL, Problem, decays, linear_problem, normal, paired_problem, rnn_problem

from cofm_triton import functional, reference
from cofm_triton.evidence.operators.dense_perturbation import dense_sweep_problem
from cofm_triton.evidence.operators.memory_increment import increment_problem
from cofm_triton.evidence.operators.perturbation import NAMES, in_models, sweep_problem
from cofm_triton.evidence.operators.perturbation_gradient import gradient_problem
from cofm_triton.evidence.operators.rnn_readout import readout_problem
from cofm_triton.evidence.tolerance import (
    Bound,
    dense_rnn_bounds,
    gated_rnn_bounds,
    linear_scan_bounds,
    paired_rnn_scan_bounds,
    rnn_scan_bounds,
    unit_roundoff,
)
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.gates import GATES
from cofm_triton.step.parameterization import PARAMETERIZATIONS

Models = Sequence[Sequence[torch.Tensor]]


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
    problem = linear_problem(1, 30, 3, dtype=dtype, gated=gated, reverse=reverse, starts=starts)
    problem = problem.with_(x=normal(1, 30, 3, dtype=dtype, seed=seed))
    leaves = [t.detach().requires_grad_() for t in problem.tensors.values()]
    results = reference.linear_scan(*leaves, **problem.options)
    results = (results[0], results[1].to(problem["h0"].dtype))
    grads = torch.autograd.grad(results, leaves, [problem["grad_h"], problem["grad_last"]])
    bounds = problem.bounds()
    assert bounds["h"].excess(results[0]) <= 1
    # In 16 bits the definition rounds h_last to the dtype of x, and autograd its gradients on the way.
    if dtype == state_dtype(dtype):
        for name, value in zip(bounds, (*results, *grads), strict=True):
            assert bounds[name].excess(value) <= 1, name


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nonlinear_definition_keeps_the_bounds(dtype: torch.dtype, nonlinearity: str) -> None:
    for starts in (None, [0, 7, 7, 20]):
        problem = rnn_problem(1, 30, 3, dtype=dtype, nonlinearity=nonlinearity, starts=starts)
        leaves = [t.detach().requires_grad_() for t in problem.tensors.values()]
        options = {name: problem.options[name] for name in ("dt", "nonlinearity", "seq_starts")}
        results = reference.rnn_scan(*leaves, **options)
        grads = torch.autograd.grad(results, leaves, [problem["grad_h"], problem["grad_last"]])
        bounds = problem.bounds()
        for name, value in zip(bounds, (*results, *grads), strict=True):
            assert bounds[name].excess(value) <= 1, name


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_definition_of_pairs_keeps_the_bounds(dtype: torch.dtype, nonlinearity: str) -> None:
    for starts in (None, [0, 7, 7, 20]):
        problem = paired_problem(1, 30, 3, dtype=dtype, nonlinearity=nonlinearity, starts=starts)
        bounds, results = problem.bounds(), problem.run("reference")
        assert bounds.keys() == results.keys()
        for name, value in results.items():
            assert bounds[name].excess(value) <= 1, name


def test_bounds_of_pairs_that_turn_do_not_grow_with_time() -> None:
    """Magnitudes of entries would: each step of a turn by pi / 4 multiplies them by sqrt(2)."""
    problem = paired_problem(1, 300, 2, nonlinearity="linear", states=False)
    turning = problem.with_(rate=torch.full((2,), 0.01), frequency=torch.full((2,), torch.pi / 4 / 0.7))
    bounds = turning.bounds()
    size = bounds["h"].exact.abs().max()
    # A step rounds some ten times, and the decay of 0.7% a step remembers 140 of them.
    assert bounds["h"].error.max() < 10 * 300 * 2.0**-24 * size


@pytest.mark.parametrize("result", ["h", "grad_x", "grad_rate", "grad_frequency", "grad_h0"])
def test_a_wrong_turn_is_outside_the_bounds(result: str) -> None:
    problem = paired_problem(2, 20, 3, nonlinearity="tanh")
    wrong = problem.with_(frequency=problem["frequency"] * 1.01).run("reference")
    assert problem.bounds()[result].excess(wrong[result]) > 1


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
    problem = linear_problem(2, length, 3, dtype=dtype)
    h, h_last = WRONG[mistake](*problem.tensors.values())
    bounds = linear_scan_bounds(**problem.tensors)  # type: ignore[arg-type]
    assert bounds["h"].excess(h) > 10
    if mistake != "no initial state":  # forgotten by then
        assert bounds["h_last"].excess(h_last) > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 33, 300])
def test_bounds_are_small_beside_the_values(length: int, dtype: torch.dtype) -> None:
    """Some units of roundoff for each step that a state remembers, of which there are about 1 / (1 - |a|) = 10."""
    unit = unit_roundoff(dtype)
    for problem in (
        linear_problem(2, length, 3, dtype=dtype),
        rnn_problem(2, length, 3, dtype=dtype, nonlinearity="tanh"),
    ):
        bounds = problem.bounds()
        for name in ("h", "grad_x"):
            bound = bounds[name]
            assert bound.error.median() < 300 * unit * bound.exact.abs().max(), name


@pytest.mark.parametrize("parameterization", ["exp", "softplus"])
def test_steps_beyond_one_have_bounds(parameterization: str) -> None:
    x, w, grad = normal(1, 9, 2), torch.tensor([0.4, 0.5]), normal(1, 9, 2)
    options: dict[str, Any] = dict(
        dt=2.0, nonlinearity="tanh", parameterization=parameterization, discretization="euler"
    )
    bounds = rnn_scan_bounds(x, w, grad_h=grad, **options)
    assert all(bool(bound.error.isfinite().all()) for bound in bounds.values())
    h, _ = functional.rnn_scan(x, w.requires_grad_(), backend="torch", **options)
    (by_w,) = torch.autograd.grad(h, w, grad)
    assert bounds["h"].excess(h) <= 1 and bounds["grad_rate"].excess(by_w) <= 1


RATES = (-40.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 3.0, 29.0, 31.0, 300.0, 6e4)


def check_extremes(bounds: dict[str, Bound], results: Sequence[torch.Tensor], pulled: Sequence[str]) -> None:
    """A bound is finite where the value is, and PyTorch keeps it wherever nothing overflows."""
    names = ("h", *(f"grad_{name}" for name in pulled))
    for name, value in zip(names, results, strict=True):
        exact, error = bounds[name]
        assert (error.isfinite() | ~exact.isfinite()).all(), name
        for channel in range(exact.shape[-1]):
            column = Bound(exact[..., channel], error[..., channel])
            if column.exact.abs().amax() < 1e30 and bool(value[..., channel].isfinite().all()):
                assert column.excess(value[..., channel]) <= 1, (name, channel)


def pulled_back(h: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """h and the gradients of its sum."""
    return [h.detach(), *torch.autograd.grad(h, leaves, torch.ones_like(h))]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_bounds_of_extreme_rates(parameterization: str, discretization: str, dtype: torch.dtype) -> None:
    """Rates that are negative, vanish or end a state at once, and states that float16 has as subnormal numbers."""
    for dt, size in product((1e-3, 1.0, 50.0), (1e-7, 1.0)):
        x = (size * normal(1, 4, len(RATES))).to(dtype).requires_grad_()
        w = torch.tensor(RATES, dtype=state_dtype(dtype), requires_grad=True)
        options: dict[str, Any] = dict(dt=dt, nonlinearity="tanh")
        options.update(parameterization=parameterization, discretization=discretization)
        h, _ = functional.rnn_scan(x, w, backend="torch", **options)
        bounds = rnn_scan_bounds(x.detach(), w.detach(), grad_h=torch.ones_like(x), **options)
        check_extremes(bounds, pulled_back(h, (x, w)), ("x", "rate"))
        pairs = paired_rnn_scan_bounds(
            x.detach()[..., :-1], w.detach()[:5], w.detach()[5:10], grad_h=torch.ones_like(x)[..., :-1], **options
        )
        assert all(bool((b.error.isfinite() | ~b.exact.isfinite()).all()) for b in pairs.values())


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("gates", GATES)
def test_bounds_of_extreme_gates(gates: str, dtype: torch.dtype) -> None:
    """Logits at which a strength underflows, and rates of 0."""
    logits = torch.tensor([-1000.0, -100.0, -88.0, 0.0, 1000.0]).to(dtype)
    for rate, size in product((0.0, 1e-9, 50.0), (1e-7, 1.0)):
        x = (size * normal(2, 4, 5)).to(dtype)
        p, q = logits.expand(2, 4, 5).clone(), normal(2, 4, 5, seed=1).to(dtype)
        rates = torch.full((5,), rate, dtype=state_dtype(dtype))
        given: dict[str, Any] = {"x": x, "rate": rates, "rate_logit": p}
        if gates in ("rg_lru", "minlstm"):
            given["input_logit"] = q
        leaves: dict[str, Any] = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        h, _ = functional.gated_rnn(**leaves, gates=gates, backend="torch")
        bounds = gated_rnn_bounds(**given, grad_h=torch.ones_like(x), gates=gates)
        check_extremes(bounds, pulled_back(h, list(leaves.values())), list(given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bounds_of_subnormal_states(dtype: torch.dtype) -> None:
    for size in (1e-7, 1e-6):
        x, decay = (size * normal(2, 5, 4)).to(dtype), torch.tensor([0.0, 0.5, -0.99, 1.0])
        weight = normal(4, 4)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, decay, weight)]
        pull = torch.ones_like(x)
        h, _ = functional.linear_scan(*leaves[:2], backend="torch")
        check_extremes(linear_scan_bounds(x, decay, grad_h=pull), pulled_back(h, leaves[:2]), ("x", "decay"))
        h, _ = functional.dense_rnn(leaves[0], leaves[2], nonlinearity="tanh", backend="torch")
        bounds = dense_rnn_bounds(x, weight, grad_h=pull, nonlinearity="tanh")
        check_extremes(bounds, pulled_back(h, [leaves[0], leaves[2]]), ("x", "weight"))


def test_bounds_scale_with_the_unit_roundoff() -> None:
    problem = linear_problem(2, 50, 3, dtype=torch.float32)
    arguments = [*problem.tensors.values(), *problem.pulls.values()]
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
    "linear": readout_problem(2, 40, 6),
    "tanh": readout_problem(2, 40, 6, act_in="tanh"),
    "hardtanh": readout_problem(2, 40, 6, act_in="hardtanh"),
    "tanh-of-linear": readout_problem(2, 40, 6, act_out="tanh"),
}
SHIFTED = ("x", "weight", "bias", "rate", "readout")


def readout_definition(problem: Problem) -> list[torch.Tensor]:
    """y and all gradients, in the dtype of the tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in problem.tensors.values()]
    x, weight, bias, rate, readout, offset = leaves
    dt, act_in, act_out = problem.options.values()
    h, _ = reference.rnn_scan(x @ weight.T + bias, rate, dt=dt, nonlinearity=act_in)
    y = reference.nonlinearity(act_out).act(h) @ readout.T + offset
    return [y, *torch.autograd.grad(y, leaves, problem.grad)]


@pytest.mark.parametrize("kind", READOUTS)
def test_the_definition_keeps_the_bounds_of_the_read_out(kind: str) -> None:
    problem = READOUTS[kind]
    bounds = problem.bounds()
    for (name, bound), value in zip(bounds.items(), readout_definition(problem), strict=True):
        assert bound.excess(value) <= 1, name
        if name in ("y", "grad_x"):  # some roundings of each step that is remembered, and of each term
            assert bound.error.median() < 300 * unit_roundoff(torch.float32) * bound.exact.abs().max(), name


@pytest.mark.parametrize("moved", SHIFTED)
@pytest.mark.parametrize("kind", READOUTS)
def test_a_thousandth_is_far_outside_the_bounds_of_the_read_out(kind: str, moved: str) -> None:
    problem = READOUTS[kind]
    wrong = problem.with_(**{moved: 1.001 * problem[moved]})
    assert problem.bounds()["y"].excess(readout_definition(wrong)[0]) > 10


def sweep_definition(problem: Problem, models: Models, factor: float = 1.0) -> torch.Tensor:
    """Errors in the dtype of the problem, with rates off by a factor."""
    errors, act_in, act_out = [], problem.options["act_in"], problem.options["act_out"]
    for weight, bias, rate, readout, offset in models:
        drive = problem.x @ weight.T + bias
        recurrence = reference.dense_rnn if rate.dim() == 2 else reference.rnn_scan
        h, _ = recurrence(drive, factor * rate, dt=0.5, nonlinearity=act_in)
        gap = reference.nonlinearity(act_out).act(h) @ readout.T + offset - problem["targets"]
        gap = gap.double()
        weights = problem.tensors.get("weights")
        errors.append(gap.abs().max() if weights is None else (weights[:, None] * gap**2).sum())
    return torch.stack(errors)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("act_in", ["linear", "tanh", "hardtanh"])
@pytest.mark.parametrize("draw", [sweep_problem, dense_sweep_problem])
def test_bounds_of_the_sweep_let_the_definition_pass_and_nothing_else(
    draw: Callable[..., Problem], act_in: str, largest: bool
) -> None:
    problem = draw(3, 40, 6, act_in=act_in, largest=largest)
    models, bound = in_models(problem.tensors)[0], problem.bounds()["errors"]
    assert bound.excess(sweep_definition(problem, models)) <= 1
    assert bound.excess(sweep_definition(problem, models, 1.001)) > 1


@pytest.mark.parametrize("act_in", ["linear", "tanh", "hardtanh"])
def test_bounds_of_the_gradients_of_the_sweep_let_the_definition_pass_and_nothing_else(act_in: str) -> None:
    problem = gradient_problem(3, 40, 6, act_in=act_in)
    bounds = problem.bounds()
    for scale in (1.0, 1.001):
        models = tuple(
            tuple(tensor.clone().requires_grad_() for tensor in model) for model in in_models(problem.tensors)[0]
        )
        errors = sweep_definition(problem, models)
        for k, model in enumerate(models):
            for name, gradient in zip(NAMES, torch.autograd.grad(errors[k], model, retain_graph=True), strict=True):
                exact, error = (part[k] for part in bounds[f"grad_{name}"])
                excess = Bound(exact, error).excess(scale * gradient.double())
                assert excess <= 1 if scale == 1 else excess > 1, (name, excess)


@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh", "relu"])
def test_bounds_of_increments_let_the_definition_pass_and_nothing_else(nonlinearity: str) -> None:
    problem = increment_problem(3, 40, 5, nonlinearity=nonlinearity)
    drive, decay, step, readout, steps = problem.tensors.values()
    bound = problem.bounds()["increments"]
    act = reference.nonlinearity(nonlinearity).act
    z, rows = drive, []
    for _ in range(int(steps[-1]) + 1):
        rows.append(act(z) @ readout.mT)
        # Another order than that of the bound's exact values.
        z = decay[:, None] * z + step[:, None] * (z - act(z))
    values = torch.stack(rows, 2)[:, :, steps]
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
