"""The perturbation sweep: errors of K models on the same sequences, weighted squares and the largest gap."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.draws import inside_and_out, normal
from cofm_triton.evidence.operator import Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound, sweep_errors_bounds
from cofm_triton.ops.backends import implementation
from cofm_triton.ops.perturbation import traffic
from cofm_triton.ops.sweeps import compiled_sweep
from cofm_triton.step.activations import properties
from cofm_triton.step.stacked_cells import StackedCells

# Of every model.
NAMES = ("weight", "bias", "rate", "readout", "offset")
KINDS = ("act_in", "act_out", "dt")
MODELS, SEQUENCES, STEPS = 40, 300, 100


def cells_of(given: Mapping[str, Any]) -> StackedCells:
    """All models, from the arguments of a call."""
    encoder, bias, rate, readout, offset = (given[name].double() for name in NAMES)
    return StackedCells(rate, encoder, bias, readout, offset, given["dt"], given["act_in"], given["act_out"])


def errors(operator: str, *, backend: str, **given: Any) -> Tensor:
    """The errors of all models on one backend."""
    compute = implementation(backend, operator).sweep_errors
    found: Tensor = compute(cells_of(given), given["x"], given["targets"], given.get("weights"))
    return found


def in_models(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments of the bounds: the models one by one, and the data."""
    models = list(zip(*(given[name] for name in NAMES), strict=True))
    return models, given["x"], given["targets"], given.get("weights")


def bounds(**given: Any) -> dict[str, Bound]:
    """Exact errors by the definitions, and how far they may be off."""
    return sweep_errors_bounds(*in_models(given), **{name: given[name] for name in KINDS})


def sweep_problem(
    batch: int, length: int, channels: int, *, operator: Operator | None = None, dtype: torch.dtype = torch.float32,
    act_in: str = "linear", act_out: str = "linear", largest: bool = False, dense: bool = False, states: bool = False,
    seed: int = 0,
) -> Problem:  # fmt: skip
    """Three models of two inputs and an output, and sequences of at least one step; `states` is accepted and ignored.

    Recurrences read out through a nonlinearity have steps of length 1 (`perturbation.stacking`).
    """
    length, seed = max(1, length), 100 * seed

    def model(index: int) -> tuple[Tensor, ...]:
        first = seed + 10 * index
        rate = (0.05 + normal(channels, dtype=torch.float64, seed=first).abs() / 2).clamp(max=1.2)
        if dense:  # columns of about the same length, whatever the width
            mixing = normal(channels, channels, dtype=torch.float64, seed=first + 5)
            rate = rate.diag() + 0.2 * mixing / channels**0.5
        return (
            normal(channels, 2, dtype=dtype, seed=first + 1),
            normal(channels, dtype=dtype, seed=first + 2),
            rate.to(dtype),
            normal(1, channels, dtype=dtype, seed=first + 3),
            normal(1, dtype=dtype, seed=first + 4),
        )

    models = zip(*map(model, range(3)), strict=True)
    tensors = {
        "x": normal(batch, length, 2, dtype=dtype, seed=seed + 90),
        **{name: torch.stack(values) for name, values in zip(NAMES, models, strict=True)},
        "targets": normal(batch, length, 1, dtype=dtype, seed=seed + 91),
    }
    if not largest:
        tensors["weights"] = normal(length, dtype=torch.float64, seed=seed + 92).abs()
    options = dict(act_in=act_in, act_out=act_out, dt=0.5 if properties(act_out).is_linear else 1.0)
    return Problem(OPERATOR if operator is None else operator, tensors, options=options)


def launch(
    units: int, dtype: torch.dtype = torch.float32, act_in: str = "linear", act_out: str = "linear", inputs: int = 1,
    outputs: int = 1, sup: bool = False, dense: bool = False,
) -> None:  # fmt: skip
    """Errors of a stack of models."""

    def numbers(*shape: int) -> Tensor:
        return meta(MODELS, *shape, dtype=torch.float64)

    cells = StackedCells(
        numbers(units, units) if dense else numbers(units), numbers(units, inputs), numbers(units),
        numbers(outputs, units), numbers(outputs), dt=0.5, act_in=act_in, act_out=act_out,
    )  # fmt: skip
    x, targets = meta(SEQUENCES, STEPS, inputs, dtype=dtype), meta(SEQUENCES, STEPS, outputs, dtype=dtype)
    weights = None if sup else meta(STEPS, dtype=torch.float64)
    compiled_sweep("triton", dense=dense).sweep_errors(cells, x, targets, weights)


def elements(constants: Options) -> int:
    """Units of models, on a sequence, in a step: a program's states times the steps of a block."""
    units: int = constants["GROUPS"] * constants["GROUP"] * constants["BLOCK_K"]
    return units * constants["BLOCK_N"] * constants["PER_THREAD"] * constants["ROWS"]


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit of a model, on a sequence, in a step: a program's models share what they read."""
    channels = options.get("inputs", 1), options.get("outputs", 1)
    together = constants["BLOCK_K"] * options["units"]
    return traffic(1, 1, *channels, options.get("dtype", torch.float32).itemsize) / together


OPERATOR = Operator(
    name="perturbation",
    function=partial(errors, "perturbation"),
    results={"errors": "grad_errors"},
    bounds=bounds,
    sequences=("x",),
    validation=Validation(
        draws=inside_and_out(sweep_problem, largest=True),
        dtypes=(torch.float32, torch.float64),
        functions={"forward": "sweep_errors"},
        largest=32,  # a GPU thread's registers hold no more float64 states
        result=torch.float64,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[dict(units=64, act_in="hardtanh"), dict(units=64, act_in="tanh"), dict(units=8, act_in="hardtanh")],
        others=[
            dict(units=32, act_in="hardtanh", dtype=torch.float64),
            dict(units=9, act_out="relu", inputs=2, outputs=3, sup=True),
        ],
        bytes_per_element=bytes_per_element,
        elements=elements,
    ),
)
