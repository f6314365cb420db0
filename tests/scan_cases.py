"""Problems of the scans for tests, as their entries draw them, and the backends they run on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from cofm_triton.evidence.draws import decays, normal
from cofm_triton.evidence.operators.dense_rnn import dense_problem
from cofm_triton.evidence.operators.gated_rnn import gated_problem
from cofm_triton.evidence.operators.linear_scan import linear_problem
from cofm_triton.evidence.operators.paired_rnn_scan import paired_problem
from cofm_triton.evidence.operators.rnn_scan import rnn_problem
from cofm_triton.evidence.problem import Problem, device_of, rounding_slack
from cofm_triton.evidence.validation.interpreter import search_once
from cofm_triton.ops.backends import INSTALLED, interpreting

__all__ = [
    "BACKENDS",
    "COMPLEX",
    "COMPLEX_BACKENDS",
    "CPU_BACKENDS",
    "REAL",
    "SEQUENTIAL_BACKENDS",
    "TRITON",
    "Problem",
    "decays",
    "dense_problem",
    "device_of",
    "for_backends",
    "gated_problem",
    "linear_problem",
    "normal",
    "paired_problem",
    "rnn_problem",
    "rounding_slack",
]

_GPU = torch.cuda.is_available()
_NUMBA = pytest.param("numba", marks=pytest.mark.skipif(not INSTALLED["numba"], reason="numba is not installed"))
_TRITON = pytest.param(
    "triton",
    marks=pytest.mark.skipif(not (INSTALLED["triton"] and (_GPU or interpreting())), reason="triton cannot run here"),
)
CPU_BACKENDS = (_NUMBA, "torch")
TRITON = (_TRITON,)
BACKENDS = (*CPU_BACKENDS, *TRITON)
COMPLEX_BACKENDS = BACKENDS
# Backends that take every step of short sequences in order, so that a result does not depend on how T is cut.
SEQUENTIAL_BACKENDS = (_NUMBA,)

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex128, torch.complex64)

if INSTALLED["triton"] and interpreting():
    search_once()


def for_backends(backends: Iterable[Any], values: Iterable[Any]) -> tuple[Any, ...]:
    """Parameters ("backend", "value"): every value on every backend, marked like the backend."""
    pairs = [(backend, value) for backend in backends for value in values]
    return tuple(
        (backend, value) if isinstance(backend, str) else pytest.param(*backend.values, value, marks=backend.marks)
        for backend, value in pairs
    )
