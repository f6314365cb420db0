"""Calls that nobody thought of: any shape, dtype, layout, option and subset of gradients; and any wrong argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from scan_cases import (
    COMPLEX,
    REAL,
    Problem,
    dense_problem,
    gated_problem,
    linear_problem,
    paired_problem,
    rnn_problem,
)
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.step.activations import NONLINEARITIES, properties
from cofm_triton.step.gates import GATES
from cofm_triton.step.parameterizations import PARAMETERIZATIONS

# Nothing, one, around blocks of 16, 32 and 128; compiled code is made for every width up to 64, so there are few.
LENGTHS = st.sampled_from([0, 1, 2, 5, 15, 16, 17, 33, 40])
WIDTHS = st.sampled_from([1, 2, 3, 17, 70])
BATCHES = st.sampled_from([0, 1, 2, 3])
RESETS = st.sampled_from([None, "h0", "zero"])
SMOOTH = [name for name in NONLINEARITIES if not properties(name).kinks]


@st.composite
def starts(draw: st.DrawFn, length: int) -> list[int]:
    """Where packed sequences start: some are empty, the last one may be."""
    return [0, *sorted(draw(st.lists(st.integers(0, length), max_size=4)))]


@st.composite
def linear_problems(draw: st.DrawFn) -> Problem:
    """Of `linear_scan`."""
    length, packed, gated = draw(LENGTHS), draw(st.booleans()), draw(st.booleans())
    pairs = draw(st.booleans())
    dtype = draw(st.sampled_from(REAL if pairs else (*REAL, *COMPLEX)))
    return linear_problem(
        1 if packed else draw(BATCHES), length, draw(WIDTHS), dtype=dtype, gated=gated, pairs=pairs,
        shared=gated and draw(st.booleans()), reverse=draw(st.booleans()), states=draw(st.booleans()),
        starts=draw(starts(length)) if packed else None, reset_to=draw(RESETS), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def rnn_problems(draw: st.DrawFn) -> Problem:
    """Of `rnn_scan`. With resets nothing is known of pre-activations: act is smooth."""
    length, packed, gated, reset_to = draw(LENGTHS), draw(st.booleans()), draw(st.booleans()), draw(RESETS)
    return rnn_problem(
        1 if packed else draw(BATCHES), length, draw(WIDTHS), dtype=draw(st.sampled_from(REAL)),
        nonlinearity=draw(st.sampled_from(SMOOTH if reset_to else NONLINEARITIES)), states=draw(st.booleans()),
        dt=draw(st.sampled_from([0.01, 0.7])), starts=draw(starts(length)) if packed else None,
        parameterization=draw(st.sampled_from(PARAMETERIZATIONS)), gated=gated, reset_to=reset_to,
        discretization=draw(st.sampled_from(["euler", "exact"])), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def paired_problems(draw: st.DrawFn) -> Problem:
    """Of `rnn_scan` with frequencies."""
    length, packed, reset_to = draw(LENGTHS), draw(st.booleans()), draw(RESETS)
    return paired_problem(
        1 if packed else draw(BATCHES), length, draw(WIDTHS), dtype=draw(st.sampled_from(REAL)),
        nonlinearity=draw(st.sampled_from(SMOOTH if reset_to else NONLINEARITIES)), states=draw(st.booleans()),
        starts=draw(starts(length)) if packed else None, reset_to=reset_to, seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def dense_problems(draw: st.DrawFn) -> Problem:
    """Of `dense_rnn`."""
    reset_to = draw(RESETS)
    return dense_problem(
        draw(BATCHES), draw(LENGTHS), draw(WIDTHS), dtype=draw(st.sampled_from(REAL)), states=draw(st.booleans()),
        nonlinearity=draw(st.sampled_from(SMOOTH if reset_to else NONLINEARITIES)), reset_to=reset_to,
        wide=draw(st.booleans()), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def gated_problems(draw: st.DrawFn) -> Problem:
    """Of `gated_rnn`."""
    length, packed = draw(LENGTHS), draw(st.booleans())
    return gated_problem(
        1 if packed else draw(BATCHES), length, draw(WIDTHS), dtype=draw(st.sampled_from(REAL)),
        gates=draw(st.sampled_from(GATES)), turning=draw(st.booleans()), states=draw(st.booleans()),
        starts=draw(starts(length)) if packed else None, reset_to=draw(RESETS), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Of any scan, with odd strides or not, and any of its gradients or none."""
    problem = draw(st.one_of(linear_problems(), rnn_problems(), paired_problems(), dense_problems(), gated_problems()))
    left_out = draw(st.sets(st.sampled_from(sorted(problem.pulls))))
    problem = problem.with_(**dict.fromkeys(left_out))
    return problem.strided() if draw(st.booleans()) else problem


@st.composite
def models(draw: st.DrawFn) -> RNNFunctional:
    """Models of every kind, with weights of size one and rates near those of a fresh model, in float64."""
    recurrence = draw(st.sampled_from(["diagonal", "ssm", "orthogonal", "dense"]))
    pairs = recurrence in ("diagonal", "ssm") and draw(st.booleans())
    model = RNNFunctional(
        draw(st.integers(1, 3)), 2 * draw(st.integers(1, 3)) - (not pairs), draw(st.integers(1, 2)),
        recurrence=recurrence, oscillating=pairs, nonlinearity=draw(st.sampled_from(NONLINEARITIES)),
        parameterization=draw(st.sampled_from(PARAMETERIZATIONS)), dt=draw(st.sampled_from([0.1, 0.5])),
        discretization=draw(st.sampled_from(["euler", "exact"])), bias=draw(st.booleans()), dtype=torch.float64,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(value + 0.3 * noise if "rate" in name or "frequency" in name else 0.5 * noise)
    return model


@dataclass(frozen=True)
class Spoiled:
    """A tensor made wrong: which, how, and what is given instead of it."""

    name: str
    how: str
    tensor: Any


SPOIL: dict[str, Callable[[Tensor], Any]] = {
    "another device": lambda tensor: tensor.to("meta"),
    "integers": lambda tensor: tensor.new_ones(tensor.shape, dtype=torch.int32),
    "booleans": lambda tensor: tensor.new_ones(tensor.shape, dtype=torch.bool),
    "one axis more": lambda tensor: tensor.new_empty((1, 1, *tensor.shape)),
    "no axes": lambda tensor: tensor.new_ones(()),
    "a longer last axis": lambda tensor: tensor.new_ones((*tensor.shape[:-1], tensor.shape[-1] + 2)),
    "sparse": lambda tensor: tensor.to_sparse(),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor, tensor], layout=torch.jagged),
    "a list": lambda tensor: tensor.tolist(),
    "a string": lambda tensor: "x",
}


@st.composite
def spoiled(draw: st.DrawFn, problem: Problem) -> Spoiled:
    """One of the problem's tensors but the input, made wrong."""
    name, how = draw(st.sampled_from(sorted(problem.tensors))), draw(st.sampled_from(sorted(SPOIL)))
    return Spoiled(name, how, SPOIL[how](problem[name]))
