"""Increments of K nonlinear one-layer models under Heaviside inputs, on the fastest backend there is.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = z[k] - A act(z[k]),   read out as c^T v[k]

Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

from torch import Tensor

from cofm_triton.ops.backends import on_device, resolve
from cofm_triton.ops.sweeps import increment_backend


def sampled_increments(name: str, drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor) -> Tensor:
    """Arguments and result of `cofm_triton.cpu.blocked.memory_increment.sampled_increments`."""
    backend = increment_backend(resolve(None, drive.device))
    with on_device(drive.device):
        return backend.sampled_increments(name, drive, decay, step, readout, steps)


def traffic(models: int, inputs: int, samples: int, units: int, outputs: int, itemsize: int) -> int:
    """Bytes that increments of nonlinear models must move: states never leave the chip, whatever the number of steps.

    The first states are read per input, decay, step and read-out per model, and the samples written.
    """
    numbers = models * (units * (inputs + 2 + outputs) + inputs * samples * outputs)
    return itemsize * numbers
