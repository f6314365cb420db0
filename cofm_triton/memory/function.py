"""The memory function of a model (arXiv 2305.19190, Definition 3.1).

    M(k dt) = sup |v_x[k]|_inf / |x|_inf,   v_x[k] = (y[k] - y[k-1]) / dt  under  x[k] = x for k >= 0

from the state 0, y[-1] being the output of that state. The sup is over r <= |x|_inf <= R: without an
upper radius every saturating model has a memory of order 1 / t. A model with a bias answers x = 0
too, so its ratio grows without bound as |x| -> 0: for such a model and this norm the lower radius is
R itself unless it is given, so that the input stands against the bias at its full size. Otherwise
it is R / 2^20, which is as good as 0. norm="inf+1", of the paper's proofs (eq 43), divides by
|x|_inf + 1 and needs no such care.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional, reads_out_states
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.memory.decay_fit import DecayFit, fit_decay
from cofm_triton.memory.evaluator import MemoryEvaluator
from cofm_triton.memory.figures import draw_memory, draw_named_memory
from cofm_triton.memory.search import NORMS
from cofm_triton.modules.calls import check_module
from cofm_triton.modules.module_state import cast
from cofm_triton.support.figure_file import draw
from cofm_triton.support.files import write_table
from cofm_triton.support.progress import Progress
from cofm_triton.support.scalars import as_int, as_number, check_choice, check_int, check_number, described
from cofm_triton.support.tensors import check_real_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Settings:
    """What a memory function was computed with.

    Attributes:
        steps: (S,) int64, k.
        dt: step, time.
        radius: R; for given inputs the largest |x|_inf among them.
        min_radius: r; for given inputs the smallest |x|_inf among them.
        norm: "inf" or "inf+1".
    """

    steps: Tensor
    dt: float
    radius: float
    min_radius: float
    norm: str

    @classmethod
    def of(cls, evaluator: MemoryEvaluator) -> "Settings":
        """Those of an evaluator."""
        domain = evaluator.domain
        return cls(evaluator.steps.cpu(), evaluator.dt, domain.largest, domain.smallest, domain.norm)

    @property
    def times(self) -> Tensor:
        """k dt, (S,) float64."""
        return self.steps.double() * self.dt


@dataclass(frozen=True, repr=False)
class MemoryFunction:
    """A memory function at the steps asked for, float64 on the CPU.

    Attributes:
        values: (S,), M; +inf where a state overflowed. S is `length` unless `samples` was given.
        argmax: (S, d), the Heaviside input that gives each value.
        settings: steps, dt, radii and norm.
        beta0: slowest decay rate of the model's modes, 1 / time: Theorem 3.9 lets a stably
            approximated memory decay no slower. NaN where it is unknown.
        floor: size of rounding errors, 0 where no outputs were subtracted.
    """

    values: Tensor
    argmax: Tensor
    settings: Settings = field(repr=False)
    beta0: float = math.nan
    floor: float = 0.0

    def __repr__(self) -> str:
        fit, times, largest = self._fit(), self.times, int(self.values.argmax())
        return (
            f"MemoryFunction: {len(times)} values to t = {times[-1]:.4g}, {self._domain()}\n"
            f"largest: {self.values[largest]:.3g} at t = {times[largest]:.4g}; last: {self.values[-1]:.3g}\n"
            f"fit: {'too short a record' if fit is None else fit}"
        )

    @property
    def steps(self) -> Tensor:
        """k, (S,) int64."""
        return self.settings.steps

    @property
    def times(self) -> Tensor:
        """k dt, (S,) float64."""
        return self.settings.times

    def fit(self) -> DecayFit:
        """Exponential or polynomial, with rate and margin, see `decay_fit`; beta0 beside it.

        Raises:
            ValueError: the record is too short.
        """
        return fit_decay(self.times, self.values, floor=self.floor, beta0=self.beta0)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write step, time, memory and the input that gives it, one line per step, whole or not at all."""
        columns = (values.tolist() for values in (self.steps, self.times, self.values, self.argmax))
        rows = [(*numbers, *point) for *numbers, point in zip(*columns, strict=True)]
        write_table(path, ("step", "time", "memory", *(f"x{i}" for i in range(self.argmax.shape[1]))), rows)

    def plot(self, path_or_axes: "str | PathLike[str] | Axes", *, label: str | None = None) -> "Axes":
        """Draw M(t), its fit and the theorem's bound M(0) e^(-beta0 t).

        Time is logarithmic where the fit is polynomial: a fit is a straight line at late times.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.
            label: name in the legend, for one of several memory functions on the same axes (`plot_memory`): M(t) and
                its fit, in one colour, over logarithmic time.
        """
        drawn = self.times, self.values, self._fit()
        if label is not None:
            return draw(path_or_axes, lambda axes: draw_named_memory(axes, *drawn, label))
        title = f"Memory, {self._domain()}"
        return draw(path_or_axes, lambda axes: draw_memory(axes, *drawn, self.beta0, title))

    def _fit(self) -> DecayFit | None:
        """None for a record too short to fit."""
        try:
            return self.fit()
        except ValueError:
            return None

    def _domain(self) -> str:
        settings = self.settings
        whole = settings.min_radius < settings.radius
        sizes = f"from {settings.min_radius:.2g} to {settings.radius:.3g}" if whole else f"= {settings.radius:.3g}"
        return f"|x| {sizes}, norm {settings.norm}"


def plot_memory(memories: Mapping[str, MemoryFunction], path_or_axes: "str | PathLike[str] | Axes") -> "Axes":
    """Draw several memory functions with their fits, one colour each.

    Args:
        memories: by name.
        path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.

    Raises:
        TypeError: `memories` is no dict of memory functions.
        ValueError: it is empty.

    Example:
        >>> import cofm_triton as cofm
        >>> models = {name: cofm.RNNFunctional(1, 8, parameterization=name) for name in ("exp", "softplus")}
        >>> memories = {name: cofm.memory_function(model, 50) for name, model in models.items()}
        >>> axes = plot_memory(memories, "memories.png")
    """
    if not isinstance(memories, Mapping) or not all(isinstance(m, MemoryFunction) for m in memories.values()):
        raise TypeError(f"memories must be a dict of memory functions by name, got {type(memories).__name__}")
    if not memories:
        raise ValueError("memories must hold at least one memory function, got none")

    def plot(axes: "Axes") -> None:
        for name, memory in memories.items():
            memory.plot(axes, label=name)

    return draw(path_or_axes, plot)


def memory_function(
    model: nn.Module,
    length: int,
    *,
    radius: float = 1.0,
    inputs: Tensor | None = None,
    norm: str = "inf",
    min_radius: float | None = None,
    samples: int | None = None,
    input_size: int | None = None,
    dt: float | None = None,
    initial_output: Tensor | float | None = None,
    warm_up: int = 0,
    progress: Progress | None = None,
) -> MemoryFunction:
    """Memory function of a model, see the module's equation.

    One-layer `RNNFunctional` models that are no more than their class says (`plain.py`) are computed without
    cancellation (linear ones exactly, all others with a search over inputs that gives a lower bound of the sup), any
    other module by differences of its outputs in float64, with the same search: sign vectors (all of them up to 10
    dimensions) and, up to 4 dimensions, points between them, at 12 to 256 radii from `radius` down to `min_radius` in a
    geometric progression, then refinement of size and coordinates. Pairs of units go the way of other modules where a
    nonlinearity reads them out ("ssm"), or where it is inside and they are more than 256 units.

    Args:
        model: a cofm model, or any module that maps (N, T, d) to (N, T, p), or to a tuple that starts
            with it; it is neither copied nor changed, also where a call fails or is interrupted.
        length: T >= 1, steps 0..T-1.
        radius: R > 0.
        inputs: (n, d), the sup is over these alone; none of them zero. `radius` is not used then.
        norm: "inf" (Definition 3.1) or "inf+1" (the paper's proofs).
        min_radius: r, 0 < r <= R; None: see the module.
        samples: at most this many steps, spread evenly over log(k), for a large T; None: all.
        input_size: d of a module that has no `input_size` of its own.
        dt: step of a module that has none of its own, time; 1 if None.
        initial_output: y[-1] of a module that is no read-out of a `StableRNN`'s states, as `RNNFunctional` is, a number
            or (p,); None: its output under zero input if that is constant, else 0.
        warm_up: W >= 0 steps of zero input before step 0. Definition 3.1 has zeros for ever: they do nothing to a model
            that rests at the state 0, but lead one with a bias to where it rests, and are what attention looks back at.
            With W > 0 every model is evaluated as other modules are, and y[-1] is its last output under the zeros.
        progress: called as `progress(done, total)`, in turns of the search.

    Returns:
        A `MemoryFunction`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown name, a shape that does not fit, or a number out of range.

    Example:
        >>> import cofm_triton as cofm
        >>> model = cofm.RNNFunctional(1, 1, nonlinearity="linear", discretization="euler")
        >>> memory = memory_function(model, 100)
        >>> memory.fit().decay
        'exponential'
    """
    check_module("model", model)
    parameters = {name: cast(p, torch.float64)[None] for name, p in model.named_parameters()}
    evaluator = evaluator_of(
        model,
        length,
        parameters,
        radius=radius,
        inputs=inputs,
        norm=norm,
        min_radius=min_radius,
        samples=samples,
        input_size=input_size,
        dt=dt,
        initial_output=initial_output,
        warm_up=warm_up,
    )
    memory = evaluator(parameters, progress)
    slowest, floor = memory.slowest[0].item(), memory.floor[0].item()
    return MemoryFunction(memory.values[0], memory.argmax[0], Settings.of(evaluator), slowest, floor)


def evaluator_of(
    model: nn.Module,
    length: int,
    probe: Mapping[str, Tensor],
    *,
    radius: float,
    inputs: Tensor | None,
    norm: str,
    min_radius: float | None,
    samples: int | None,
    input_size: int | None,
    dt: float | None,
    initial_output: Tensor | float | None,
    warm_up: int,
) -> MemoryEvaluator:
    """What computes memories with the options of `memory_function`, checked.

    Args:
        model: as for `memory_function`.
        length: T.
        probe: parameters of some copies, see `MemoryEvaluator`.
        radius: as for `memory_function`.
        inputs: as for `memory_function`.
        norm: as for `memory_function`.
        min_radius: as for `memory_function`.
        samples: as for `memory_function`.
        input_size: as for `memory_function`.
        dt: as for `memory_function`.
        initial_output: as for `memory_function`.
        warm_up: as for `memory_function`.

    Raises:
        TypeError, ValueError: as `memory_function`.
    """
    check_module("model", model)
    if getattr(_layer(model), "bidirectional", False):
        raise ValueError("model must be causal to have a memory function, got bidirectional=True")
    steps = log_steps(length, samples)
    radius = check_number("radius", radius)
    check_choice("norm", norm, tuple(NORMS))
    if min_radius is not None:
        min_radius = check_number("min_radius", min_radius)
        if min_radius > radius:
            raise ValueError(f"min_radius must not exceed radius, {radius!r}, got {min_radius!r}")
    size = _input_size(model, input_size, inputs)
    warm_up = check_int("warm_up", warm_up, 0)
    if initial_output is not None and warm_up:
        raise ValueError(f"initial_output must be None with a warm-up, got {initial_output!r} and warm_up={warm_up}")
    if initial_output is not None and reads_out_states(model):
        raise ValueError("initial_output must be None for an RNNFunctional: it is the read-out of the state 0")
    if initial_output is not None:
        initial_output = _initial_output(initial_output)
    return MemoryEvaluator(
        model,
        size,
        steps,
        _step(model, dt),
        radius=radius,
        min_radius=min_radius,
        norm=norm,
        probe=probe,
        inputs=_inputs(inputs, size),
        rest=initial_output,
        warm_up=warm_up,
    )


def log_steps(length: int, samples: int | None) -> Tensor:
    """All steps 0..T-1, or about `samples` of them: 0, and a geometric progression from 1 to T - 1.

    Raises:
        TypeError, ValueError: not integers, or out of range.

    Example:
        >>> log_steps(1001, 5).tolist()
        [0, 1, 10, 100, 1000]
    """
    length = check_int("length", length, 1)
    if samples is not None:
        samples = check_int("samples", samples, 3)
    if samples is None or samples >= length:
        return torch.arange(length, device="cpu")
    share = torch.linspace(0, 1, samples - 1, dtype=torch.float64, device="cpu")
    return torch.cat((torch.zeros(1, device="cpu"), ((length - 1) ** share).round())).long().unique()


def _initial_output(value: Any) -> Tensor | float:
    """A finite number or tensor of numbers; whether it has one per output, the first output tells."""
    number = as_number(value)
    if number is None and (not isinstance(value, Tensor) or value.dtype == torch.bool):
        raise TypeError(f"initial_output must be a number or a tensor (p,), got {described(value)}")
    given: Tensor | float = value if number is None else number
    numbers = torch.as_tensor(given, device="cpu")
    if numbers.is_complex() or numbers.dim() > 1:
        raise ValueError(f"initial_output must be a real number or a tensor (p,), got {value!r}")
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"initial_output must be finite, got {value!r}")
    return given


def _layer(model: nn.Module) -> nn.Module:
    """What has the model's sizes and step: the layer of an `RNNFunctional`; `torch.compile` wraps either."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, RNNFunctional):
        return model
    layer: nn.Module = getattr(model.rnn, "_orig_mod", model.rnn)
    return layer


def _step(model: nn.Module, dt: float | None) -> float:
    layer = _layer(model)
    own = layer.dt if isinstance(layer, StableRNN) else None
    if dt is None:
        return 1.0 if own is None else own
    dt = check_number("dt", dt)
    if own is not None and dt != own:
        raise ValueError(f"dt must be None or that of the model, {own!r}, got {dt!r}")
    return dt


def _input_size(model: nn.Module, input_size: int | None, inputs: Tensor | None) -> int:
    """d: of the model's own, of the argument, or of the inputs."""
    layer = _layer(model)
    own = as_int(getattr(layer, "input_size", None))
    given = input_size
    if given is None and isinstance(inputs, Tensor) and inputs.dim() == 2:
        given = inputs.shape[1]
    if given is not None:
        given = check_int("input_size", given, 1)
    if own is not None and given is not None and given != own:
        name = "inputs must have shape (n, d) with d" if input_size is None else "input_size must be that of the model,"
        raise ValueError(f"{name} = {own}, got {given}")
    size = given if own is None else own
    if size is None:
        raise ValueError(f"input_size must be given for a {type(model).__name__}, which has no input_size of its own")
    return size


def _inputs(inputs: Tensor | None, size: int) -> Tensor | None:
    if inputs is None:
        return None
    check_real_tensor("inputs", inputs)
    if inputs.dim() != 2 or len(inputs) == 0 or inputs.shape[1] != size:
        raise ValueError(f"inputs must have shape (n, d) = (n, {size}) with n >= 1, got {tuple(inputs.shape)}")
    if not bool(inputs.isfinite().all()):
        raise ValueError("inputs must be finite, got NaN or infinity")
    if bool((inputs == 0).all(1).any()):
        raise ValueError("inputs must not contain the zero vector: the sup is over x != 0")
    return inputs.detach().double()
