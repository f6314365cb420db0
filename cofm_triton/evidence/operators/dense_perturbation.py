"""The perturbation sweep over dense models: errors of K models on the same sequences."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cofm_triton.evidence.compilation.launches import Options
from cofm_triton.evidence.operator import Compilation, Operator, Validation
from cofm_triton.evidence.operators.perturbation import bounds, errors, sweep_problem
from cofm_triton.evidence.operators.perturbation import launch as launch_sweep
from cofm_triton.evidence.problem import Problem
from cofm_triton.ops.perturbation import traffic
from cofm_triton.step.activations import NONLINEARITIES


def dense_sweep_problem(*shape: int, **options: Any) -> Problem:
    """As `sweep_problem`, of models with a matrix each."""
    return sweep_problem(*shape, operator=OPERATOR, dense=True, **options)


def launch(nonlinearity: str = "hardtanh", **options: Any) -> None:
    """Errors of a stack of models."""
    launch_sweep(act_in=nonlinearity, dense=True, **options)


def elements(constants: Options) -> int:
    """Units of a model, on a sequence, in a step: states of a turn of the loop along time."""
    states: int = constants["BLOCK"] * constants["PAIR"] * constants["ROWS"]
    return states


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit of a model, on a sequence, in a step: a program has one model, whose units share what it reads."""
    channels = options.get("inputs", 1), options.get("outputs", 1)
    return traffic(1, 1, *channels, options.get("dtype", torch.float32).itemsize) / float(options["units"])


OPERATOR = Operator(
    name="dense_perturbation",
    function=partial(errors, "dense_perturbation"),
    results={"errors": "grad_errors"},
    bounds=bounds,
    sequences=("x",),
    validation=Validation(
        draws={
            **{name: partial(dense_sweep_problem, act_in=name) for name in NONLINEARITIES},
            "hardtanh+largest": partial(dense_sweep_problem, act_in="hardtanh", largest=True),
        },
        dtypes=(torch.float32, torch.float64),
        backends=("triton", "numba"),
        functions={"forward": "sweep_errors"},
        largest=40,  # wider matrices take the same path; those that the kernel has no room for, another operator's
        result=torch.float64,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[dict(units=64), dict(units=64, nonlinearity="tanh"), dict(units=16)],
        others=[
            dict(units=64, dtype=torch.float64),
            dict(units=100, nonlinearity="tanh"),
            dict(units=9, nonlinearity="relu", inputs=2, outputs=3, sup=True),
        ],
        bytes_per_element=bytes_per_element,
        elements=elements,
    ),
)
