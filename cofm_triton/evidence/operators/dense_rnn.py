"""`cofm_triton.dense_rnn`: every nonlinearity; matrices in registers, half of one read again in every step, by steps.

Instructions are counted per state that a turn of the loop along time makes; those of the kernels of one step, which
loop along the terms of a product, per term.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.draws import away_from_kinks, inputs_to, normal, randn, resets
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound, dense_rnn_bounds
from cofm_triton.functional import dense_rnn
from cofm_triton.ops.checks import RESET_TO
from cofm_triton.ops.dense_rnn import step_traffic, traffic
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.step.activations import NONLINEARITIES

SMALL, RESIDENT, TILED, CACHED, STEPS, RAGGED = 64, 128, 160, 256, 640, 500
# Besides tanh, the expensive one, and hardtanh, whose widths are compiled one by one.
OTHERS = tuple(name for name in NONLINEARITIES if name not in ("tanh", "hardtanh"))
BATCH = 4


def dense_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, precision: str = "ieee", wide: bool = True, reset_to: str | None = None,
    seed: int = 0,
) -> Problem:  # fmt: skip
    """A dense recurrence whose pre-activations keep away from kinks.

    Its matrix is W = I / 2 + C with rows of C that sum to at most 1 / 4: no step enlarges an error, for any slope. It
    is in the state's dtype, or, not `wide`, in that of x. With `reset_to` there are episodes, and nothing is known of
    pre-activations: act is to be smooth.
    """
    state, seed = state_dtype(dtype), 10 * seed
    coupling = normal(channels, channels, dtype=torch.float64, seed=seed + 5)
    coupling = coupling / (4 * coupling.abs().sum(1).amax())
    weight = (0.5 * torch.eye(channels, dtype=torch.float64) + coupling).to(state if wide else dtype)
    h0 = torch.zeros(batch, channels, dtype=state)
    if states:
        h0 = normal(batch, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    x = inputs_to(z, h0, lambda h, t: h @ weight.double().T, dt=dt, nonlinearity=nonlinearity, dtype=dtype)
    pulls = {
        "grad_h": normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        "grad_last": normal(batch, channels, dtype=state if states else dtype, seed=seed + 4),
    }
    options: dict[str, Any] = dict(dt=dt, nonlinearity=nonlinearity, precision=precision)
    if reset_to is not None:
        options |= dict(resets=resets(batch, length, seed), reset_to=reset_to)
    return Problem(OPERATOR, {"x": x, "weight": weight, **({"h0": h0} if states else {})}, pulls, options)


def _bounds(*, precision: str = "ieee", **arguments: Any) -> dict[str, Bound]:
    """Those of every precision."""
    return dense_rnn_bounds(**arguments)


def timed(case: Case, device: torch.device) -> Problem:
    """x, a matrix whose states neither vanish nor grow, and the gradient of h."""
    width = case.shape[2]
    generator = torch.Generator(device).manual_seed(2)
    coupling = torch.randn(width, width, dtype=case.dtype, device=device, generator=generator) / (3 * width**0.5)
    weight = 0.3 * torch.eye(width, dtype=case.dtype, device=device) + coupling
    tensors, options = {"x": randn(case, device, 0), "weight": weight}, dict(dt=0.5, nonlinearity="tanh")
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)}, options)


def launch(
    dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh", width: int = RESIDENT, length: int = 2,
    states: bool = True, precision: str = "ieee", wide: bool = False, reset_to: str | None = None,
) -> None:  # fmt: skip
    """Both passes; without initial states the forward pass keeps no slopes either. `wide` weights are the state's."""
    from triton.runtime import driver

    from cofm_triton.kernels import dense_rnn

    target = driver.active.get_current_target()
    if target.backend == "hip":
        precision = "ieee"
    state = state_dtype(dtype)
    x = meta(BATCH, length, width, dtype=dtype)
    weight = meta(width, width, dtype=state if wide or dtype == torch.float16 else dtype)
    h0 = meta(BATCH, width, dtype=state) if states else None
    episodes = None if reset_to is None else meta(BATCH, length, dtype=torch.bool)
    options: dict[str, Any] = dict(reset_to=reset_to or "h0", dt=0.5, precision=precision, lanes=target.warp_size)
    dense_rnn.forward(x, weight, h0, episodes, nonlinearity=nonlinearity, keep=states, state_dtype=state, **options)
    dense_rnn.adjoint(x, h0, meta(*x.shape, dtype=state), weight, episodes, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per state; per term of a product for the kernels of one step."""
    itemsize, width = options.get("dtype", torch.float32).itemsize, options["width"]
    kind: dict[str, Any] = dict(backward="adjoint" in kernel, keep=constants.get("KEEP", True))
    if "step" in kernel:
        return step_traffic(BATCH, width, itemsize, **kind) / (BATCH * width * width)
    return traffic(1, 1, 1, itemsize, **kind)


def elements(constants: Options) -> int:
    """States of one turn of the loop along time, or terms of one turn of a step's loop."""
    if "TILE_K" in constants:
        terms: int = constants["TILE_B"] * constants["TILE_N"] * constants["TILE_K"]
        return terms
    states: int = constants["BLOCK"] * constants["BLOCKS"]
    return states


OPERATOR = Operator(
    name="dense_rnn",
    function=dense_rnn,
    bounds=_bounds,
    validation=Validation(
        draws={name: partial(dense_problem, nonlinearity=name) for name in NONLINEARITIES}
        | {f"tanh+resets-to-{name}": partial(dense_problem, nonlinearity="tanh", reset_to=name) for name in RESET_TO},
        dtypes=REAL_DTYPES,
        functions={"forward": "forward", "backward": "adjoint"},
        largest=64,
    ),
    benchmark=Benchmark(
        studies={"shapes": ([(16, 512, width) for width in (16, 32, 64, 128, 256, 512)], [torch.float32])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
        scales=True,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[
            *(dict(width=width, nonlinearity="tanh") for width in (SMALL, RESIDENT, CACHED, STEPS)),
            dict(width=RESIDENT, nonlinearity="hardtanh"),
            *(dict(width=width, nonlinearity="tanh", dtype=torch.bfloat16) for width in (RESIDENT, CACHED)),
            dict(width=STEPS, nonlinearity="tanh", precision="tf32x3"),
        ],
        others=[
            *(dict(width=TILED, nonlinearity="tanh", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)),
            *(dict(width=CACHED, nonlinearity=name, dtype=torch.float16) for name in NONLINEARITIES),
            *(dict(width=CACHED, nonlinearity=name, dtype=torch.bfloat16) for name in NONLINEARITIES if name != "tanh"),
            *(dict(width=CACHED, nonlinearity=name, dtype=torch.bfloat16, wide=True) for name in NONLINEARITIES),
            dict(width=STEPS, nonlinearity="tanh", dtype=torch.bfloat16),
            *(dict(width=width, nonlinearity="tanh", dtype=torch.float64) for width in (SMALL, RESIDENT, STEPS)),
            *(dict(width=width, states=False) for width in (3, 200, RAGGED)),
            *(dict(width=width, nonlinearity=name) for width, name in product((CACHED, RAGGED), OTHERS)),
            dict(width=RAGGED, precision="tf32x3"),
            *(dict(width=width, nonlinearity="tanh", reset_to="h0") for width in (RESIDENT, STEPS)),
            dict(width=RESIDENT, nonlinearity="tanh", reset_to="zero"),
        ],
        bytes_per_element=bytes_per_element,
        elements=elements,
    ),
)
