"""Stable recurrent networks, fast: parallel-scan-friendly recurrences and memory/stability sweeps."""

from cofm_triton import targets
from cofm_triton._version import __version__
from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.layers.residual import ResidualBlock, ResidualStack
from cofm_triton.layers.stable_rnn import RNNFunctional, StableRNN
from cofm_triton.loss import temporal_weights, temporally_weighted_mse
from cofm_triton.memory.function import MemoryFunction, memory_function
from cofm_triton.memory.sweep import MemorySweep, memory_sweep
from cofm_triton.ops.backends import SlowBackendWarning
from cofm_triton.parameter_groups import parameter_groups
from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
from cofm_triton.perturbation.verdict import StabilityVerdict, stability_verdict
from cofm_triton.step.parameterization import PARAMETERIZATIONS, parameterization

__all__ = [
    "PARAMETERIZATIONS",
    "MemoryFunction",
    "MemorySweep",
    "PerturbationCurve",
    "RNNFunctional",
    "ResidualBlock",
    "ResidualStack",
    "SlowBackendWarning",
    "StabilityVerdict",
    "StableRNN",
    "__version__",
    "dense_rnn",
    "linear_scan",
    "memory_function",
    "memory_sweep",
    "parameter_groups",
    "parameterization",
    "perturbation_error",
    "rnn_scan",
    "stability_verdict",
    "targets",
    "temporal_weights",
    "temporally_weighted_mse",
]
