"""The fused read-out `y[t] = c^T act_out(h[t]) + d` of units or pairs of them, encoder included, states never stored.

What is timed is `cofm_triton.RNNFunctional`, one input and one output, as users call it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, torch_contestant
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.draws import inside_and_out, normal, randn
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound, rnn_readout_bounds
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.ops.rnn_readout import apply_rnn_readout, traffic
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.discretization import effective_rate
from cofm_triton.step.parameterization import parameterization

NAMES = ("x", "weight", "bias", "rate", "readout", "offset", "turn")  # turn: of pairs alone
DT = 0.7
WIDTH, CHUNK = 512, 64


def readout_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, act_in: str = "linear",
    act_out: str = "linear", states: bool = False, paired: bool = False, seed: int = 0,
) -> Problem:  # fmt: skip
    """Two inputs and one output; `states` is accepted and ignored: the operator always starts from zero.

    With `paired` one channel more if their number is odd, and pairs that turn no faster than they decay.
    """
    seed *= 10
    if paired:
        channels += channels % 2
    modes = channels // 2 if paired else channels
    rate = (0.05 + normal(modes, dtype=torch.float64, seed=seed + 3).abs() / 2).clamp(max=1.2).to(dtype)
    tensors = (
        normal(batch, length, 2, dtype=dtype, seed=seed),
        normal(channels, 2, dtype=dtype, seed=seed + 1),
        normal(channels, dtype=dtype, seed=seed + 2),
        rate,
        normal(1, channels, dtype=dtype, seed=seed + 4),
        normal(1, dtype=dtype, seed=seed + 5),
        *([rate * torch.tanh(normal(modes, dtype=dtype, seed=seed + 7))] if paired else []),
    )
    pulls = {"grad_y": normal(batch, length, 1, dtype=dtype, seed=seed + 6)}
    options = dict(dt=DT, act_in=act_in, act_out=act_out)
    return Problem(OPERATOR, dict(zip(NAMES, tensors, strict=False)), pulls, options)


def _bounds(*, grad_y: Tensor, dt: float, act_in: str, act_out: str, **tensors: Tensor) -> dict[str, Bound]:
    given = [tensors[name] for name in NAMES if name in tensors]
    return rnn_readout_bounds(given, grad_y, dt=dt, act_in=act_in, act_out=act_out)


def timed(case: Case, device: torch.device) -> Problem:
    """x (B, T, 1), what a model of D units multiplies by, and the gradient of y."""
    x, pull = (randn(case, device, seed)[..., :1].contiguous() for seed in (0, 1))
    model = model_of(case.shape[2], x)
    rnn, raw = model.rnn, model.get_parameter("rnn.rate_l0")
    rate = effective_rate(parameterization(rnn.parameterization).rate(raw), rnn.dt, rnn.discretization)
    weight, bias, readout, offset = (
        model.get_parameter(name) for name in ("rnn.weight_ih_l0", "rnn.bias_l0", "readout.weight", "readout.bias")
    )
    tensors = [tensor.detach() for tensor in (x, weight, bias, rate, readout, offset)]
    options: dict[str, Any] = dict(dt=rnn.dt, act_in=rnn.nonlinearity, act_out="linear")
    return Problem(OPERATOR, dict(zip(NAMES, tensors, strict=False)), {"grad_y": pull}, options)


def model_of(width: int, x: Tensor) -> RNNFunctional:
    """The model that every contestant computes."""
    torch.manual_seed(2)
    return RNNFunctional(1, width, device=x.device, dtype=x.dtype)


def _ours(problem: Problem) -> Contestant:
    """Gradients by x and all parameters."""
    model = model_of(len(problem["rate"]), problem.x)
    return torch_contestant(model, [problem.x], problem.grad, parameters=list(model.parameters()))


def _states(problem: Problem) -> Tensor:
    """A tensor of the size of the states."""
    return torch.randn(*problem.x.shape[:2], len(problem["rate"]), dtype=problem.x.dtype, device=problem.x.device)


def launch(
    dtype: torch.dtype = torch.float32, act_in: str = "linear", act_out: str = "linear", features: int = 1,
    width: int = WIDTH, length: int = 4096, paired: bool = False,
) -> None:  # fmt: skip
    """Both passes, with and without states kept for the second and a gradient by x."""
    from triton.runtime import driver

    from cofm_triton.kernels import rnn_readout

    x, rate = meta(1, length, features, dtype=dtype), meta(width, dtype=dtype)
    weight, readout = meta(width, features, dtype=dtype), meta(features, width, dtype=dtype)
    options: dict[str, Any] = dict(dt=0.5, act_in=act_in, act_out=act_out, chunk=CHUNK)
    if paired:
        options.update(turn=rate, lanes=driver.active.get_current_target().warp_size)
    _, states = rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=True)
    rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=False)
    for with_grad_x in (False, True):
        rnn_readout.backward(x, x, weight, rate, rate, readout, states, **options, with_grad_x=with_grad_x)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit and step, which share what moves for a step; a state in `CHUNK` is written forward and read backward."""
    features, wide = options.get("features", 1), max(4, options["dtype"].itemsize)
    gradient = features if constants.get("WITH_GRAD_X", False) else 0
    step = traffic(1, 1, features + gradient, features, options["dtype"].itemsize)
    return step / options.get("width", WIDTH) + (wide / CHUNK if constants.get("KEEP", True) else 0)


OPERATOR = Operator(
    name="rnn_readout",
    function=apply_rnn_readout,
    results={"y": "grad_y"},
    bounds=_bounds,
    sequences=("x",),
    validation=Validation(
        draws={
            **inside_and_out(readout_problem),
            "tanh+pairs": partial(readout_problem, act_in="tanh", paired=True),
            "tanh-of-linear+pairs": partial(readout_problem, act_out="tanh", paired=True),
        },
        dtypes=(torch.float32, torch.float64),
    ),
    benchmark=Benchmark(
        studies={"shapes": ([(512, 100, 64), (64, 4096, 64)], [torch.float32])},
        draw=timed,
        ours=_ours,
        traffic=lambda case, backward: traffic(case.shape[0], case.shape[1], 1 + backward, 1, case.dtype.itemsize),
        yardstick=_states,
        scales=True,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[
            *(dict(dtype=torch.float32, act_in=name) for name in NONLINEARITIES),
            *(dict(dtype=torch.float32, act_in=name, paired=True) for name in ("linear", "tanh", "hardtanh")),
        ],
        others=[
            *(dict(dtype=torch.float64, act_out=name) for name in NONLINEARITIES),
            # Twice that many inputs and outputs together: the limits of each number of units a lane.
            *(
                dict(dtype=dtype, act_in="tanh", features=features, width=500)
                for features in (2, 4, 8)
                for dtype in (torch.float32, torch.float64)
            ),
            # Of pairs, in float32 (`ops.rnn_readout.is_fused`): the most inputs and outputs there may be.
            *(
                dict(dtype=torch.float32, act_in="tanh", features=features, width=500, paired=True)
                for features in (1, 4)
            ),
            dict(dtype=torch.float32, act_out="tanh", paired=True),
        ],
        bytes_per_element=bytes_per_element,
    ),
)
