"""How one-layer models answer a Heaviside input: increments of the output without cancellation.

    v[k] = (y[k] - y[k-1]) / dt,   y[-1] = d,   under x[k] = x for k >= 0, from the state 0

Outputs are never subtracted, so v keeps its relative accuracy while it decays to any size
(arXiv 2305.19190, Definition 3.1, needs |v| / |x|). With e = U x + b, l the decay of one step, A = 1 - l:

    linear state       h[k+1] - h[k] = g e l^k,  h[k] = g e (1 - l^k) / (1 - l)
    "ssm"              v = c^T (act(h[k+1]) - act(h[k])) / dt,  as a difference that does not cancel
    act in the loop    z[0] = e,  z[k+1] = z[k] - A act(z[k]),  v = c^T act(z[k])

The last line has a closed form for relu (z decays by l, or stays where relu is 0) and, for A <= 2,
hardtanh (z falls by A until |z| <= 1, and decays by l from there); tanh is iterated.
Everything is float64: l^k of a long memory has no relative accuracy in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.ops.backends import implementation, resolve
from cofm_triton.perturbation.stacking import FREQUENCY, RATE, stack
from cofm_triton.step.activation import activation
from cofm_triton.step.coefficients import mode_frequency
from cofm_triton.step.modes import log_decay, mode_decay
from cofm_triton.step.parameterization import parameterization
from cofm_triton.step.stacked_cells import StackedCells

_LOG_ZERO = -1e4  # stands for log(0), whose product with 0 would be NaN: e^-1e4 is 0
_LARGEST_STEP = 2.0  # A up to which a hardtanh unit that has left saturation never returns


@dataclass(frozen=True)
class HeavisideCells:
    """K one-layer models that answer Heaviside inputs.

    Attributes:
        cells: their coefficients.
        decay: l, (K, m): of one step, exact relative to itself; complex if units are pairs.
        log_decay: log |l|, (K, m), of pairs log l.
        scale: what turns c^T of a change of state into v, 1 / time.
    """

    cells: StackedCells
    decay: Tensor
    log_decay: Tensor
    scale: float

    @classmethod
    def of(cls, model: RNNFunctional, parameters: Mapping[str, Tensor]) -> "HeavisideCells":
        """K copies of a stackable model; arguments of `stack`."""
        cells, modes = stack(model, parameters), _modes(model, parameters)
        # 1 - l would lose the digits of a small l
        return cls(cells, mode_decay(*modes), log_decay(*modes), cells.dt / model.rnn.dt)

    @property
    def slowest(self) -> Tensor:
        """The smallest decay rate of each model's modes, (K,), 1 / time."""
        return _slowest(self.log_decay, self.cells.dt / self.scale)

    def __getitem__(self, models: slice) -> "HeavisideCells":
        """Some of the models."""
        return HeavisideCells(self.cells[models], self.decay[models], self.log_decay[models], self.scale)

    @property
    def is_closed(self) -> bool:
        """Whether v has a closed form, so that any step of any input is as cheap as the first."""
        step = self.cells.dt * self.cells.rate
        return self.cells.act_in in ("linear", "relu") or (
            self.cells.act_in == "hardtanh" and bool((step <= _LARGEST_STEP).all())
        )

    @property
    def is_odd(self) -> bool:
        """Whether -x answers as x does, up to the sign."""
        odd = "relu" not in (self.cells.act_in, self.cells.act_out)
        return odd and not self.is_biased

    @property
    def is_biased(self) -> bool:
        """Whether the answer does not vanish with the input."""
        return bool((self.cells.bias != 0).any())

    def kernel(self, steps: Tensor) -> Tensor:
        """v of linear models is kernel (x, 1): (K, p, d + 1, S) for steps (S,)."""
        drive = torch.cat((self.cells.encoder, self.cells.bias[..., None]), -1)
        modes = self._powers(steps.to(self.cells.offset)[:, None]).squeeze(1).mT
        return self.scale * _real(torch.einsum("kqi,kic,kis->kqcs", self.cells.readout, drive, modes))

    def increments(self, inputs: Tensor, steps: Tensor) -> Tensor:
        """v[k] at some steps.

        Args:
            inputs: x, (K, n, d); with a closed form also (K, n, S, d), one input for every step.
            steps: (S,) int64, ascending.

        Returns:
            (K, n, S, p).
        """
        cells = self.cells
        drive = torch.einsum("k...d,kmd->k...m", inputs.to(cells.encoder), cells.encoder)
        drive = drive + cells.bias.reshape(len(cells.bias), *([1] * (inputs.dim() - 2)), -1)
        if not self.is_closed:
            return self.scale * self._iterated(drive, steps)
        if inputs.dim() == 3:
            drive = drive[:, :, None]
        times = steps.to(inputs)[:, None]
        change = self._pre_activation(drive, times) if cells.act_in != "linear" else self._difference(drive, times)
        return self.scale * _real(change @ cells.readout[:, None].mT)

    def _iterated(self, drive: Tensor, steps: Tensor) -> Tensor:
        cells, step = self.cells, self.cells.dt * self.cells.rate
        backend = implementation(resolve(None, drive.device), "memory_increment")
        increments: Tensor = backend.sampled_increments(cells.act_in, drive, self.decay, step, cells.readout, steps)
        return increments

    def _difference(self, drive: Tensor, times: Tensor) -> Tensor:
        """act_out(h[k+1]) - act_out(h[k]) of a linear state, drive (K, n, 1 or S, m)."""
        powers = self._powers(times)
        change = drive * powers
        if self.cells.act_out == "linear":
            return change
        # (1 - l^k) / (1 - l), by expm1 next to l = 1, where both differences cancel
        near = (self.decay > 0.5)[:, None, None]
        log = self._wide(self.log_decay)
        top = torch.where(near, torch.expm1(times * torch.where(near, log, 0.0)), powers - 1)
        gap = torch.where(near, torch.expm1(torch.where(near, log, 0.0)), self._wide(self.decay) - 1)
        still = gap == 0
        sums = torch.where(still, times, top / torch.where(still, 1.0, gap))
        return difference(self.cells.act_out, drive * sums, change)

    def _pre_activation(self, drive: Tensor, times: Tensor) -> Tensor:
        """act_in(z[k]) of relu and hardtanh, drive (K, n, 1 or S, m)."""
        if self.cells.act_in == "relu":
            falling = self._wide(self.decay) < 0  # the first step already ends where relu is 0
            size = torch.where(falling & (times > 0), 0.0, drive.clamp(min=0))
            return torch.where(size == 0, 0.0, size * self._powers(times))
        step = self._wide(self.cells.dt * self.cells.rate)
        size, sign = drive.abs(), drive.sign()
        never = torch.where(size > 1, torch.inf, 0.0)  # a unit that does not decay stays saturated
        saturated = torch.where(step > 0, ((size - 1) / step).ceil().clamp(min=0), never)
        start = torch.where(saturated > 0, size - saturated.clamp(max=1e300) * step, size)
        left = (times - saturated).clamp(min=0)
        powers = self._powers(left)
        inside = torch.where(start == 0, 0.0, start * powers).clamp(-1, 1)
        return sign * torch.where(times < saturated, 1.0, inside)

    def _powers(self, times: Tensor) -> Tensor:
        """l^k, (K, 1, S, m) for times (S, 1), or the shape of times (K, n, S, m)."""
        if self.cells.is_complex:
            log = torch.complex(self.log_decay.real.clamp(min=_LOG_ZERO), self.log_decay.imag)
            return torch.exp(times * self._wide(log))
        log, negative = self._wide(self.log_decay), self._wide(self.decay) < 0
        size = torch.exp(times * log.clamp(min=_LOG_ZERO))
        if not bool(negative.any()):
            return size
        return torch.where(negative & (times % 2 == 1), -size, size)

    def _wide(self, value: Tensor) -> Tensor:
        return value[:, None, None]


def slowest_decay(model: RNNFunctional, parameters: Mapping[str, Tensor]) -> Tensor:
    """The smallest decay rate of the modes of K copies of a model, elementwise but for pairs, (K,), 1 / time."""
    return _slowest(log_decay(*_modes(model, parameters)), model.rnn.dt)


def _slowest(log_decays: Tensor, dt: float) -> Tensor:
    return -_real(log_decays).amax(1) / dt


def _modes(model: RNNFunctional, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None, float, str]:
    """Rate and frequency of K copies of a model, (K, m), its step and discretisation."""
    rnn = model.rnn
    rate = parameterization(rnn.parameterization).rate(parameters[RATE])
    frequency = mode_frequency(rnn, parameters[RATE], parameters[FREQUENCY]) if rnn.oscillating else None
    return rate, frequency, rnn.dt, rnn.discretization


def _real(values: Tensor) -> Tensor:
    return values.real if values.is_complex() else values


def difference(name: str, z: Tensor, step: Tensor) -> Tensor:
    """act(z + step) - act(z), accurate relative to itself however small it is beside act(z).

    tanh: sinh(step) / (cosh(z) cosh(z + step)) with the three exponents joined, whose sum is never
    positive. Piecewise linear functions: the step itself where both ends are on the slope.
    """
    end = z + step
    if name == "tanh":
        scale = torch.exp(step.abs() - z.abs() - end.abs())
        damping = (1 + torch.exp(-2 * z.abs())) * (1 + torch.exp(-2 * end.abs()))
        return -2 * torch.sign(step) * torch.expm1(-2 * step.abs()) * scale / damping
    act = activation(name)
    limits = {"linear": (-torch.inf, torch.inf), "hardtanh": (-1.0, 1.0), "relu": (0.0, torch.inf)}
    low, high = limits[name]
    sloped = (torch.minimum(z, end) >= low) & (torch.maximum(z, end) <= high)
    return torch.where(sloped, step, act(end) - act(z))


def traffic(models: int, inputs: int, samples: int, units: int, outputs: int, itemsize: int) -> int:
    """Bytes that increments of nonlinear models must move: states never leave the chip, whatever the number of steps.

    The first states are read per input, decay, step and read-out per model, and the samples written.
    """
    numbers = models * (units * (inputs + 2 + outputs) + inputs * samples * outputs)
    return itemsize * numbers
