"""Training of many small `RNNFunctional` models at once, by the paper's protocol.

The loss is the temporally weighted mean squared error of the paper (arXiv 2305.19190). Models of
one kind (same recurrence, activation, step and discretisation; any widths and parameterisations) are trained
together: single units lie side by side as the channels of one recurrence, other models are called one after
the other (`separate_models.py`), and because Adam works on every number by itself, each model goes the way it
would go alone.

Two ways to the gradient:

- `train_linear`: a linear model's loss on a data set is the quadratic form z^T G z in the mismatch
  z of its kernel, so a full-batch step costs nothing per sequence.
- `train_sequences`: any activation, on minibatches of sequences through `rnn_scan`.

Where training starts matters for stability. A unit that is never needed keeps about the rate it
started with, and its read-out shrinks but does not vanish: started slow (rate near 1 / T), it is a
slow mode that a small perturbation turns into growth, although the target does not ask for it. So
all rates start fast, between 1 / (2 dt) and 2 / dt (`INITIAL_RATES`), whatever the target, the
length and the parameterisation; slow modes are then there because the target made them. Pairs of units start
with angles that every activation allows inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cofm_triton.experiment.separate_models import SeparateModels
from cofm_triton.functional import linear_scan, rnn_scan
from cofm_triton.layers.rnn_functional import RNNFunctional, is_plain
from cofm_triton.loss import temporal_weights
from cofm_triton.perturbation.quadratic_form import QuadraticForm
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import properties
from cofm_triton.step.cayley import cayley_inverse
from cofm_triton.step.coefficients import (
    constrained_matrix,
    free_frequency,
    matrix_coefficients,
    modes_of,
    step_coefficients,
)
from cofm_triton.step.discretization import effective_rate, is_exact, linear_decay, linear_gain
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.pairs import as_reals
from cofm_triton.step.parameterization import parameterization as lookup_parameterization
from cofm_triton.step.recurrent_matrix import congruence
from cofm_triton.support.progress import Progress, counting
from cofm_triton.support.scalars import check_int, check_number

INITIAL_RATES = (0.5, 2.0)
"""Fresh rates are log-uniform in this range, in 1 / dt, as the decay exp(-dt rate) per step."""

INITIAL_ANGLE = math.pi / 2
"""Fresh pairs of units turn by up to this in a step, radians."""

_BLOCK = 32  # steps per block of powers: the decays of T steps need T / 32 + 32 exponentials


def initial_model(
    width: int,
    *,
    parameterization: str,
    nonlinearity: str = "linear",
    recurrence: str = "diagonal",
    oscillating: bool = False,
    dt: float = 1.0,
    discretization: str = "exact",
    seed: int = 0,
) -> RNNFunctional:
    """An untrained float64 model of one input and one output.

        dt rate log-uniform in `INITIAL_RATES`,  U, c ~ N(0, 1 / m),  b = d = 0

    so that |U|_2 and |c|_2 do not grow with m, as the theorem asks. Pairs of units turn by angles uniform in
    [0, `INITIAL_ANGLE`) a step; P is a random orthogonal matrix, weight_hh is 0. Euler's method starts from the same
    decays per step: 1 - dt rate = exp(-r) for the r drawn, turned by the angle drawn. The numbers depend on width and
    seed alone: every parameterisation starts from the same model (but where the range of f ends below 2 / dt, the
    rates end there).

    Args:
        width: hidden units m.
        parameterization: name of f in rate = f(w).
        nonlinearity: activation, as in `RNNFunctional`.
        recurrence: as in `RNNFunctional`.
        oscillating: as in `RNNFunctional`.
        dt: time step.
        discretization: "exact" or "euler".
        seed: of the initial numbers, in [0, 2**44).

    Raises:
        TypeError: no numbers where there should be.
        ValueError: an unknown name, or a width or dt that is not positive.

    Example:
        >>> initial_model(8, parameterization="exp").rnn.rate_l0.shape
        torch.Size([8])
    """
    width, dt, seed = check_int("width", width, 1), check_number("dt", dt), check_int("seed", seed, below=2**44)
    model = RNNFunctional(
        1,
        width,
        1,
        parameterization=parameterization,
        nonlinearity=nonlinearity,
        recurrence=recurrence,
        oscillating=oscillating,
        dt=dt,
        discretization=discretization,
        max_time_scale=INITIAL_RATES[1] / INITIAL_RATES[0],
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(seed * 1_000_003 + width)
    function = lookup_parameterization(parameterization)
    largest = 0.95 * dt * function.range.high
    high = min(INITIAL_RATES[1], largest)
    low = min(INITIAL_RATES[0], high / 2)
    uniform = torch.rand(width, generator=generator, dtype=torch.float64, device="cpu")
    rate = low * (high / low) ** uniform
    encoder, readout = torch.randn(2, width, generator=generator, dtype=torch.float64, device="cpu")
    modes, pairs = len(model.rnn.rate_l0), width // 2 if oscillating else 0
    angle = torch.zeros(modes, dtype=torch.float64, device="cpu")
    angle[:pairs] = INITIAL_ANGLE * torch.rand(pairs, generator=generator, dtype=torch.float64, device="cpu")
    rate = rate[:modes]
    if not is_exact(discretization):
        rate, angle = effective_pair(rate, angle, 1.0, "exact")
        rate = rate.clamp(max=largest)
    with torch.no_grad():
        model.rnn.rate_l0.copy_(function.inverse(rate / dt))
        model.rnn.weight_ih_l0.copy_(encoder[:, None] / width**0.5)
        _bias(model).zero_()
        model.readout.weight.copy_(readout / width**0.5)
        model.readout.bias.zero_()
        if oscillating:
            model.get_parameter("rnn.frequency_l0").copy_(
                free_frequency(model.rnn, model.rnn.rate_l0, angle[:pairs] / dt)
            )
        elif recurrence == "orthogonal":
            basis = torch.randn(width, width, generator=generator, dtype=torch.float64, device="cpu")
            model.rnn.basis_l0.copy_(cayley_inverse(nn.init.orthogonal_(basis, generator=generator)))
        elif recurrence == "dense":
            model.rnn.weight_hh_l0.zero_()
    return model


def with_nonlinearity(model: RNNFunctional, nonlinearity: str) -> RNNFunctional:
    """A copy of a linear model with an activation, equal to it while act(z) = z.

    The exact discretisation has the input gain dt phi(dt rate) when linear and dt when the activation is inside, so
    that encoder and bias take the factor phi along there. Pairs that turn faster than the activation allows inside
    are slowed down (`free_frequency`).

    Args:
        model: linear, inputs not normalised.
        nonlinearity: activation of the copy.

    Raises:
        ValueError: `model` is not linear, or an unknown name.

    Example:
        >>> linear = initial_model(8, parameterization="exp")
        >>> with_nonlinearity(linear, "hardtanh").rnn.nonlinearity
        'hardtanh'
    """
    _check_plain(model)
    rnn = model.rnn
    if not properties(rnn.nonlinearity).is_linear:
        raise ValueError(f"model must be linear, got nonlinearity={rnn.nonlinearity!r}")
    bent = RNNFunctional(
        1,
        rnn.hidden_size,
        1,
        parameterization=rnn.parameterization,
        nonlinearity=nonlinearity,
        recurrence=rnn.recurrence,
        oscillating=rnn.oscillating,
        constrained=rnn.constrained,
        dt=rnn.dt,
        discretization=rnn.discretization,
        max_time_scale=rnn.max_time_scale,
        dtype=rnn.rate_l0.dtype,
        device=rnn.rate_l0.device,
    )
    with torch.no_grad():
        for ours, theirs in zip(bent.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs)
        if properties(nonlinearity).is_linear or rnn.recurrence == "ssm":
            return bent
        encoder, bias = _inside(model)
        bent.rnn.weight_ih_l0.copy_(encoder)
        _bias(bent).copy_(bias)
        if rnn.oscillating:
            free = model.get_parameter("rnn.frequency_l0")
            turns = modes_of(rnn, rnn.rate_l0, free).frequency
            assert turns is not None  # an oscillating model has them
            bent.get_parameter("rnn.frequency_l0").copy_(free_frequency(bent.rnn, rnn.rate_l0, turns[: len(free)]))
    return bent


def _inside(model: RNNFunctional) -> tuple[Tensor, Tensor]:
    """Encoder and bias with which h + dt (U x + b - A h) is a step of the linear model."""
    rnn, raw, bias = model.rnn, model.rnn.rate_l0, _bias(model)
    rate = lookup_parameterization(rnn.parameterization).rate(raw)
    if rnn.recurrence == "orthogonal" and rnn.constrained:
        gain = congruence(linear_gain(rate, rnn.dt, rnn.discretization) / rnn.dt, rnn.basis())
        return gain @ rnn.weight_ih_l0, gain @ bias
    if rnn.recurrence in ("orthogonal", "dense"):
        free = model.get_parameter("rnn.basis_l0" if rnn.recurrence == "orthogonal" else "rnn.weight_hh_l0")
        _, encoder, offset = matrix_coefficients(rnn, rate, constrained_matrix(rnn, free), rnn.weight_ih_l0, bias)
        return encoder, bias if offset is None else offset
    frequency = model.get_parameter("rnn.frequency_l0") if rnn.oscillating else None
    step = step_coefficients(rnn, raw, frequency, rnn.weight_ih_l0, bias)
    encoder, offset = step.encoder / rnn.dt, step.bias / rnn.dt
    if encoder.is_complex():
        width = rnn.hidden_size
        return as_reals(encoder.mT).mT[:width], as_reals(offset)[:width]
    return encoder, offset


def train_linear(
    models: Sequence[RNNFunctional],
    form: QuadraticForm,
    *,
    steps: int,
    learning_rate: float = 0.02,
    progress: Progress | None = None,
) -> Tensor:
    """Train linear models in place on a whole data set, in float64.

    Args:
        models: linear, one input and one output, of one kind.
        form: the loss over the data, from `QuadraticForm.from_data(inputs, targets)`.
        steps: Adam steps; the learning rate rises over a tenth of them, then falls to nothing.
        learning_rate: the largest one.
        progress: called as `progress(finished steps, steps)`; an error in it leaves the models as they were.

    Returns:
        (models,) float64, the loss before the last step, over that of the zero model.

    Raises:
        TypeError: no numbers where there should be.
        ValueError: models of different kind or not linear, or a number out of range.
    """
    packed = _side_by_side(models)
    if not properties(packed.nonlinearity).is_linear:
        raise ValueError(f"models must be linear, got nonlinearity={packed.nonlinearity!r}")
    with one_thread():
        zero_error = _form_error(torch.zeros_like(form.centre), form)

        def losses(_: int) -> Tensor:
            return _form_error(packed.response(form.length), form) / zero_error

        final = _adam(packed, losses, steps, learning_rate, progress)
    packed.write_back()
    return final


def train_sequences(
    models: Sequence[RNNFunctional],
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 0.006,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Train models in place on minibatches of sequences.

    Args:
        models: one input and one output, of one kind.
        inputs: (N, T, 1); its dtype and device are those of the computation (float32 is enough:
            minibatches are noisier than rounding).
        targets: (N, T, 1), like `inputs`.
        steps: Adam steps; the learning rate rises over a tenth of them, then falls to nothing.
        batch_size: sequences per step, drawn with replacement.
        learning_rate: the largest one.
        seed: of the draws.
        progress: called as `progress(finished steps, steps)`; an error in it leaves the models as they were.

    Returns:
        (models,) float64, the mean loss over the last tenth of the steps, over that of the zero
        model.

    Raises:
        TypeError: no numbers where there should be.
        ValueError: models of different kind, shapes that do not fit, or a number out of range.
    """
    _check_data(inputs, targets)
    steps, batch_size = check_int("steps", steps, 1), check_int("batch_size", batch_size, 1)
    seed = check_int("seed", seed, below=2**64)
    packed = _side_by_side(models, inputs)
    weights = temporal_weights(inputs.shape[1], device="cpu").to(inputs)[:, None]
    generator = torch.Generator().manual_seed(seed)
    recent: list[Tensor] = []

    def losses(step: int) -> Tensor:
        rows = torch.randint(len(inputs), (batch_size,), generator=generator, device="cpu").to(inputs.device)
        miss = weights * (packed.outputs(inputs[rows]) - targets[rows])
        loss = miss.square().mean((0, 1)) / zero_error
        if step >= steps - max(1, steps // 10):
            recent.append(loss.detach())
        return loss

    with one_thread():
        zero_error = (weights * targets).square().mean()
        _adam(packed, losses, steps, learning_rate, progress)
    packed.write_back()
    return torch.stack(recent).mean(0).double().cpu()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread, so that sums have the same order on every machine.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _side_by_side(models: Sequence[RNNFunctional], like: Tensor | None = None) -> _Packed | SeparateModels:
    """Models of one kind, ready to be trained.

    Raises:
        ValueError: no model, or models of different kinds.
    """
    if not models:
        raise ValueError("models must hold at least one model, got none")
    for model in models:
        _check_plain(model)
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("models must have no frozen parameters: all of them are trained")
    names = ("nonlinearity", "dt", "discretization", "recurrence", "oscillating")
    kinds = {tuple(getattr(model.rnn, name) for name in names) for model in models}
    if len(kinds) != 1:
        raise ValueError(f"models must share {', '.join(names[:-1])} and {names[-1]}, got {sorted(kinds)}")
    if any(m.rnn.weight_ih_l0.shape[1] != 1 or m.readout.out_features != 1 for m in models):
        raise ValueError("models must have one input and one output")
    *_, recurrence, oscillating = kinds.pop()
    single_units = recurrence in ("diagonal", "ssm") and not oscillating
    return (_Packed if single_units else SeparateModels)(models, like)


class _Packed:
    """The parameters of many models with single units as matrices (models, largest width), padded and masked.

    Padding has no encoder and no read-out, so it has no gradient and never moves.
    """

    def __init__(self, models: Sequence[RNNFunctional], like: Tensor | None = None) -> None:
        rnn = models[0].rnn
        self.models = list(models)
        self.recurrence, self.nonlinearity = rnn.recurrence, rnn.nonlinearity
        self.dt, self.discretization = rnn.dt, rnn.discretization
        self.widths = [m.rnn.hidden_size for m in models]
        names = [m.rnn.parameterization for m in models]
        self._rows = {n: [i for i, other in enumerate(names) if other == n] for n in names}
        like = models[0].rnn.rate_l0.detach() if like is None else like
        shape = (len(models), max(self.widths))
        self.encoder, self.bias, self.readout, self.raw = (
            torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(4)
        )
        self.offset = torch.zeros(len(models), dtype=like.dtype, device=like.device)
        self._mask = torch.zeros(shape, dtype=torch.bool, device=like.device)
        self._read()

    def parameters(self) -> list[Tensor]:
        """The tensors to train."""
        return [self.encoder, self.bias, self.readout, self.raw, self.offset]

    def _parts(self, model: RNNFunctional) -> list[Tensor]:
        return [model.rnn.weight_ih_l0, _bias(model), model.readout.weight, model.rnn.rate_l0]

    @torch.no_grad()
    def _read(self) -> None:
        units = (self.encoder, self.bias, self.readout, self.raw)
        for row, (model, width) in enumerate(zip(self.models, self.widths, strict=True)):
            for matrix, part in zip(units, self._parts(model), strict=True):
                matrix[row, :width] = part.flatten()
            self.raw[row, width:] = self.raw[row, 0]  # any valid rate
            self.offset[row] = model.readout.bias[0]
            self._mask[row, :width] = True
        for tensor in self.parameters():
            tensor.requires_grad_()

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the trained numbers into the models."""
        units = (self.encoder, self.bias, self.readout, self.raw)
        for row, (model, width) in enumerate(zip(self.models, self.widths, strict=True)):
            for matrix, part in zip(units, self._parts(model), strict=True):
                part.copy_(matrix[row, :width].reshape(part.shape))
            model.readout.bias.copy_(self.offset[row : row + 1])

    def _rates(self) -> Tensor:
        """Rates f(w): (models, width)."""
        rates = torch.zeros_like(self.raw)
        for name, rows in self._rows.items():
            index = torch.tensor(rows, device=self.raw.device)
            rates = rates.index_copy(0, index, lookup_parameterization(name).rate(self.raw[index]))
        return rates

    def response(self, length: int) -> Tensor:
        """Kernels [kappa, kb] of linear models for the input and the constant 1: (models, 2 T).

        kappa_s = sum_i g_i c_i U_i l_i^s,  kb_s = sum_i g_i c_i b_i l_i^s + d [s = 0]

        Powers are products of a power by blocks and one within the block.
        """
        rate, dt = self._rates(), self.dt
        step = torch.arange(_BLOCK, dtype=rate.dtype, device=rate.device)
        block = torch.arange(0, length, _BLOCK, dtype=rate.dtype, device=rate.device)
        gain = linear_gain(rate, dt, self.discretization)
        if is_exact(self.discretization):
            inner, outer = (torch.exp(-dt * rate[..., None] * s) for s in (step, block))
        else:
            inner, outer = ((1 - dt * rate)[..., None] ** s for s in (step, block))
        both = torch.stack([self.encoder, self.bias], 1) * (gain * self.readout)[:, None]
        blocks = (both[..., None] * outer[:, None]).mT @ inner[:, None]
        kernels = blocks.flatten(2)[..., :length]
        at_zero = nn.functional.pad(self.offset[:, None], (length, length - 1))
        return kernels.flatten(1) + at_zero

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs of every model: (B, T, 1) to (B, T, models)."""
        encoder, bias, readout = (t[self._mask] for t in (self.encoder, self.bias, self.readout))
        rate, step = self._rates()[self._mask], (self.dt, self.discretization)
        if self.recurrence == "ssm":
            gain = linear_gain(rate, *step)
            h, _ = linear_scan(inputs * (gain * encoder) + gain * bias, linear_decay(rate, *step))
            h = activation(self.nonlinearity)(h)
        else:
            e = inputs * encoder + bias
            h, _ = rnn_scan(e, effective_rate(rate, *step), dt=self.dt, nonlinearity=self.nonlinearity)
        owner = torch.arange(len(self.models), device=h.device)[:, None].expand_as(self._mask)
        select = nn.functional.one_hot(owner[self._mask], len(self.models)).to(h)
        return h @ (select * readout[:, None]) + self.offset


def _check_plain(model: RNNFunctional) -> None:
    """Raises ValueError unless the equations of this file are what the model computes."""
    if not is_plain(model) or model.rnn.normalize_input or model.rnn.learnable_dt:
        raise ValueError(
            "models must be RNNFunctional of one layer and direction, without normalised inputs, learnable steps, "
            f"hooks, shared, replaced or parametrised parts, got {model}"
        )


def _bias(model: RNNFunctional) -> Tensor:
    """The encoder's bias, which these models have."""
    bias = model.rnn.bias_l0
    if bias is None:
        raise ValueError("models must have bias=True")
    return bias


def _form_error(kernels: Tensor, form: QuadraticForm) -> Tensor:
    """Errors floor + z^T G z - 2 g^T z of kernels (K, 2 T), with one product with G in all.

    The gradient 2 G z - 2 g needs the product that the value needs; autograd would form it again.
    """
    gap = kernels - form.centre
    fixed = gap.detach()
    product = fixed @ form.gram
    value = (form.floor + ((product - 2 * form.slope) * fixed).sum(1)).detach()
    slope = (2 * (product - form.slope) * gap).sum(1)
    return value + (slope - slope.detach())


def _adam(
    packed: _Packed | SeparateModels,
    losses: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    progress: Progress | None,
) -> Tensor:
    """Minimise every model's loss; the last step's losses, (models,) float64."""
    steps, learning_rate = check_int("steps", steps, 1), check_number("learning_rate", learning_rate)
    finished = counting(progress, steps)
    optimizer = torch.optim.Adam(packed.parameters(), lr=learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = losses(step)
        loss.sum().backward()
        optimizer.step()
        schedule.step()
        finished(1)
    return loss.detach().double().cpu()


def _check_data(inputs: Tensor, targets: Tensor) -> None:
    if inputs.ndim != 3 or inputs.shape[2] != 1 or 0 in inputs.shape:
        raise ValueError(f"inputs must be (N, T, 1) with N, T >= 1, got {tuple(inputs.shape)}")
    if targets.shape != inputs.shape:
        raise ValueError(f"targets must have the shape of inputs, {tuple(inputs.shape)}, got {tuple(targets.shape)}")
    if targets.dtype != inputs.dtype:
        raise TypeError(f"targets must be {inputs.dtype} like inputs, got {targets.dtype}")
