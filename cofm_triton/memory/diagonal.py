"""How one-layer models answer a Heaviside input: increments of the output without cancellation.

    v[k] = (y[k] - y[k-1]) / dt,   y[-1] = d,   under x[k] = x for k >= 0, from the state 0

Outputs are never subtracted, so v keeps its relative accuracy while it decays to any size
(arXiv 2305.19190, Definition 3.1, needs |v| / |x|). With e = U x + b, l the decay of one step, A = 1 - l:

    linear state       h[k+1] - h[k] = g e l^k,  h[k] = g e (1 - l^k) / (1 - l)
    "ssm"              v = c^T (act(h[k+1]) - act(h[k])) / dt,  as a difference that does not cancel; unit by unit of
                       pairs
    act in the loop    z[0] = e,  z[k+1] = z[k] - A act(z[k]),  v = c^T act(z[k])

The last line has a closed form for relu (z decays by l, or stays where relu is 0) and, for A <= 2,
hardtanh (z falls by A until |z| <= 1, and decays by l from there); tanh is iterated.
Everything is float64: l^k of a long memory has no relative accuracy in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.ops.memory_increment import sampled_increments
from cofm_triton.perturbation.stacking import FREQUENCY, LOG_DT, RATE, stack
from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import properties
from cofm_triton.step.coefficients import Modes, modes_of, stretch_of
from cofm_triton.step.modes import log_decay, mode_decay
from cofm_triton.step.pairs import as_reals
from cofm_triton.step.stacked_cells import StackedCells

_LOG_ZERO = -1e4  # stands for log(0), whose product with 0 would be NaN: e^-1e4 is 0


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
    def held(self) -> int:
        """Numbers that are held per model, input and step: all units where each step is answered by itself."""
        return self.decay.shape[1] if self.is_closed else self.cells.readout.shape[1]

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
        largest = properties(self.cells.act_in).closed_step
        return largest == torch.inf or (largest > 0 and bool((self.cells.dt * self.cells.rate <= largest).all()))

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
        has_linear_state = properties(cells.act_in).is_linear
        change = self._difference(drive, times) if has_linear_state else self._relaxed(drive, times)
        readout = cells.readout if change.is_complex() else cells.of_units()[2]
        return self.scale * _real(change @ readout[:, None].mT)

    def _iterated(self, drive: Tensor, steps: Tensor) -> Tensor:
        cells = self.cells
        return sampled_increments(cells.act_in, drive, self.decay, cells.dt * cells.rate, cells.readout, steps)

    def _difference(self, drive: Tensor, times: Tensor) -> Tensor:
        """act_out(h[k+1]) - act_out(h[k]) of a linear state, drive (K, n, 1 or S, m); of pairs the 2 m units' behind
        an act_out that is not linear.
        """
        powers = self._powers(times)
        change = drive * powers
        if properties(self.cells.act_out).is_linear:
            return change
        # (1 - l^k) / (1 - l), by expm1 next to l = 1, where both differences cancel
        near = ((self.decay - 1).abs() < 0.5)[:, None, None]
        log = torch.where(near, self._wide(self.log_decay), 0.0)
        top = torch.where(near, _expm1(times * log), powers - 1)
        gap = torch.where(near, _expm1(log), self._wide(self.decay) - 1)
        still = gap == 0
        sums = torch.where(still, times.to(gap.dtype), top / torch.where(still, 1.0, gap))
        state = drive * sums
        if self.cells.is_complex:
            state, change = as_reals(state), as_reals(change)
        return bodies(self.cells.act_out).difference(state, change)

    def _relaxed(self, drive: Tensor, times: Tensor) -> Tensor:
        """act_in(z[k]) where it has a closed form, drive (K, n, 1 or S, m)."""
        relaxed = bodies(self.cells.act_in).relaxed
        assert relaxed is not None  # `is_closed`
        step = self._wide(self.cells.dt * self.cells.rate)
        act: Tensor = relaxed(drive, step, self._wide(self.decay), times, self._powers)
        return act

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


def _modes(model: RNNFunctional, parameters: Mapping[str, Tensor]) -> Modes:
    """Of K copies of a model, (K, m)."""
    stretch = stretch_of(model.rnn, parameters[LOG_DT]) if LOG_DT in parameters else None
    return modes_of(model.rnn, parameters[RATE], parameters.get(FREQUENCY), stretch)


def _expm1(z: Tensor) -> Tensor:
    """e^z - 1, of complex z too: where Re z <= 0 no term of the real part cancels another."""
    if not z.is_complex():
        return torch.expm1(z)
    shrunk = torch.expm1(z.real)
    return torch.complex(shrunk * z.imag.cos() - 2 * (z.imag / 2).sin().square(), (1 + shrunk) * z.imag.sin())


def _real(values: Tensor) -> Tensor:
    return values.real if values.is_complex() else values
