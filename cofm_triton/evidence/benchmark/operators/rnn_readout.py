"""`cofm.RNNFunctional`, one input and one output: the read-out `y = c^T h` of D hardtanh units, states never stored."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import randn
from cofm_triton.evidence.tolerance import Bound, rnn_readout_bounds
from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.ops.rnn_readout import traffic
from cofm_triton.step.discretization import effective_rate
from cofm_triton.step.parameterization import parameterization


def make(case: Case, device: torch.device) -> Problem:
    """x (B, T, 1) and the gradient of y in the same shape; times are compared with a copy of the (B, T, D) states."""
    states = randn(case, device, 0)
    return Problem(case, states[..., :1].contiguous(), randn(case, device, 1)[..., :1].contiguous(), copied=states)


def model_of(problem: Problem) -> RNNFunctional:
    """The model that every contestant computes."""
    torch.manual_seed(2)
    return cofm.RNNFunctional(1, problem.case.shape[2], device=problem.x.device, dtype=problem.case.dtype)


def contestant(problem: Problem) -> Contestant:
    """`cofm.RNNFunctional` as users call it; gradients by x and all parameters."""
    model = model_of(problem)
    return torch_contestant(model, [problem.x], problem.grad, parameters=list(model.parameters()))


def _bounds(problem: Problem) -> dict[str, Bound]:
    model = model_of(problem)
    rnn = model.rnn
    raw = model.get_parameter("rnn.rate_l0")
    rate = effective_rate(parameterization(rnn.parameterization).rate(raw), rnn.dt, rnn.discretization)
    weight, bias, readout, offset = (
        model.get_parameter(name) for name in ("rnn.weight_ih_l0", "rnn.bias_l0", "readout.weight", "readout.bias")
    )
    tensors = [tensor.detach() for tensor in (problem.x, weight, bias, rate, readout, offset)]
    bounds = rnn_readout_bounds(tensors, problem.grad, dt=rnn.dt, act_in=rnn.nonlinearity, act_out="linear")
    return {"h": bounds["y"], "grad_x": bounds["grad_x"]}


OPERATOR = Operator(
    name="rnn_readout",
    studies={"shapes": ([(512, 100, 64), (64, 4096, 64)], [torch.float32])},
    make=make,
    scales=True,
    ours=contestant,
    traffic=lambda case, backward: traffic(case.shape[0], case.shape[1], 1 + backward, 1, case.dtype.itemsize),
    bounds=_bounds,
)
