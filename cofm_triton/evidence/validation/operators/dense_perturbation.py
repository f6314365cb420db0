"""Calls of the perturbation sweep over dense models: errors of K models on the same sequences."""

from __future__ import annotations

from functools import partial

import torch

from cofm_triton.evidence.validation.operators.perturbation import sweep_case
from cofm_triton.evidence.validation.problem import Operator

draw = partial(sweep_case, operator="dense_perturbation")

OPERATOR = Operator(
    name="dense_perturbation",
    draws={
        "linear": partial(draw, act_in="linear"),
        "tanh": partial(draw, act_in="tanh"),
        "hardtanh+largest": partial(draw, act_in="hardtanh", largest=True),
        "relu": partial(draw, act_in="relu"),
    },
    dtypes=(torch.float32, torch.float64),
    backends=("triton", "numba"),
    functions={"forward": "sweep_errors"},
    largest=40,  # wider matrices take the same path; those that the kernel has no room for, another operator's
    result=torch.float64,
)
