"""Stable recurrent networks, fast: parallel-scan-friendly recurrences and memory/stability sweeps."""

import os
import sys
from typing import TYPE_CHECKING

from cofm_triton._version import __version__
from cofm_triton.support.lazy import lazy

if TYPE_CHECKING:
    from cofm_triton import targets
    from cofm_triton.functional import dense_rnn, gated_rnn, linear_scan, rnn_scan
    from cofm_triton.layers.residual import ResidualBlock, ResidualStack
    from cofm_triton.layers.rnn_functional import RNNFunctional
    from cofm_triton.layers.stable_rnn import StableRNN
    from cofm_triton.loss import temporal_weights, temporally_weighted_mse
    from cofm_triton.memory.contraction import contraction_bound
    from cofm_triton.memory.function import MemoryFunction, memory_function, plot_memory
    from cofm_triton.memory.lyapunov import LyapunovExponent, lyapunov_exponent, warm_up_steps
    from cofm_triton.memory.sweep import MemorySweep, memory_sweep
    from cofm_triton.ops.backends import SlowBackendWarning
    from cofm_triton.optim import parameter_groups
    from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
    from cofm_triton.perturbation.verdict import StabilityVerdict, stability_verdict
    from cofm_triton.step.parameterization import PARAMETERIZATIONS, parameterization
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "": ["functional", "layers", "loss", "memory", "optim", "perturbation", "targets"],
            "functional": ["dense_rnn", "gated_rnn", "linear_scan", "rnn_scan"],
            "layers.residual": ["ResidualBlock", "ResidualStack"],
            "layers.rnn_functional": ["RNNFunctional"],
            "layers.stable_rnn": ["StableRNN"],
            "loss": ["temporal_weights", "temporally_weighted_mse"],
            "memory.contraction": ["contraction_bound"],
            "memory.function": ["MemoryFunction", "memory_function", "plot_memory"],
            "memory.lyapunov": ["LyapunovExponent", "lyapunov_exponent", "warm_up_steps"],
            "memory.sweep": ["MemorySweep", "memory_sweep"],
            "ops.backends": ["SlowBackendWarning"],
            "optim": ["parameter_groups"],
            "perturbation.curve": ["PerturbationCurve", "perturbation_error"],
            "perturbation.verdict": ["StabilityVerdict", "stability_verdict"],
            "step.parameterization": ["PARAMETERIZATIONS", "parameterization"],
        },
    )

__all__ = [
    "PARAMETERIZATIONS",
    "LyapunovExponent",
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
    "contraction_bound",
    "dense_rnn",
    "gated_rnn",
    "linear_scan",
    "lyapunov_exponent",
    "memory_function",
    "memory_sweep",
    "parameter_groups",
    "parameterization",
    "perturbation_error",
    "plot_memory",
    "rnn_scan",
    "stability_verdict",
    "targets",
    "temporal_weights",
    "temporally_weighted_mse",
    "warm_up_steps",
]


def _is_command() -> bool:
    """Whether this process is the command `cofm` (or `python -m cofm_triton`)."""
    program = [os.path.basename(word) for word in sys.argv[:1]]
    return program in (["cofm"], ["cofm.exe"]) or (program == ["-m"] and __name__ in sys.orig_argv)


# Programs made by torch.export find their operators wherever the package is imported. The command runs none of them,
# and answers `--help` before torch could be there.
if not _is_command():
    from cofm_triton import ops as _ops  # noqa: F401
