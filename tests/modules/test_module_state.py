"""Calls of a user's module with other tensors: the right numbers, and the module as it was, whatever happens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune

from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep
from cofm_triton.modules import module_state
from cofm_triton.modules.module_state import EvaluationMode, OtherTensors, Preserved
from cofm_triton.perturbation.curve import perturbation_error
from cofm_triton.perturbation.directions import parameter_shapes, random_direction

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated in favor of.*:FutureWarning")


class Layers(nn.Module):
    """A recurrence and a read-out, with what users add to them."""

    def __init__(self, change: Callable[[Layers], object] = lambda module: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.GRU(1, 3, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.Linear(3, 1)
        self.double()
        change(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.readout(self.dropout(self.layer(x)[0]))
        return y


class Frozen(dict[str, int]):
    """Entries that stay."""

    def clear(self) -> None:
        raise TypeError("frozen")

    update = pop = __setitem__ = clear  # type: ignore[assignment]


class Unusual(Layers):
    """One part under two names, a closure, a list of tensors, a lock, a counter, and attributes set in a call."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.lock = self.readout, threading.Lock()
        self.closure = lambda h: self.readout(h) * 2
        self.tensors, self.seen, self.names = [self.readout.weight], [0], {"a"}
        self.options = Frozen(size=3)
        self.scale = 2 * torch.ones(1, dtype=torch.float64, requires_grad=True)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.seen.append(1)
        self.names.add("b")
        self.last = h = self.layer(x)[0]
        y: Tensor = self.closure(h) + self.again(self.dropout(h)) + self.scale * h @ self.tensors[0].T
        return y


class Counting(Layers):
    """A call that makes a buffer, and draws its own weight's largest norm in place."""

    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("mask", torch.ones_like(x))
        with torch.no_grad():
            self.readout.weight.clamp_(-0.1, 0.1)
        return super().forward(x * self.mask)


def batch_norm(module: Layers) -> None:
    module.readout = nn.Sequential(nn.Linear(3, 3), Channels(3), nn.Linear(3, 1)).double()  # type: ignore[assignment]


class Channels(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def share(module: Layers) -> None:
    module.layer.bias_hh_l0 = module.layer.bias_ih_l0


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


MODULES: dict[str, Callable[[], nn.Module]] = {
    "plain": Layers,
    "unusual": Unusual,
    "shared": lambda: Layers(share),
    "weight_norm": lambda: Layers(lambda m: nn.utils.weight_norm(m.readout)),
    "weight_norm of the layer": lambda: Layers(lambda m: nn.utils.weight_norm(m.layer, "weight_hh_l0")),
    "weight_norm, parametrised": lambda: Layers(lambda m: nn.utils.parametrizations.weight_norm(m.readout)),
    "spectral_norm": lambda: Layers(lambda m: nn.utils.spectral_norm(m.readout).double()),
    "spectral_norm, parametrised": lambda: Layers(lambda m: nn.utils.parametrizations.spectral_norm(m.readout)),
    "parametrised": lambda: Layers(lambda m: parametrize.register_parametrization(m.readout, "bias", Half())),
    "pruned": lambda: Layers(lambda m: prune.l1_unstructured(m.readout, "weight", amount=0.4)),
    "frozen": lambda: Layers(lambda m: m.layer.requires_grad_(False)),
    "batch norm": lambda: Layers(batch_norm),
    "partly evaluating": lambda: Layers(lambda m: m.layer.eval()),
}
EACH = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in MODULES.items()])


def state_of(model: nn.Module) -> list[Any]:
    """Everything a module holds: which objects, with which entries, in which order, and what is inside of tensors."""
    found: list[Any] = [torch.get_rng_state().tolist()]
    for module in model.modules():
        for name, value in vars(module).items():
            entries = list(value.items() if isinstance(value, dict) else value) if is_container(value) else [value]
            entries = [e[-1] if isinstance(e, tuple) else e for e in entries]
            tensors = [e for e in entries if isinstance(e, Tensor) and not is_lazy(e)]
            inside = [(t.tolist(), t.requires_grad, t.grad if t.is_leaf else None) for t in tensors]
            found.append((name, id(value), [*map(id, entries)], inside))
    return found


def is_container(value: object) -> bool:
    return isinstance(value, (dict, list, set))


def data() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 3, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return x, y


def errors(model: nn.Module, **options: Any) -> Tensor:
    return perturbation_error(model, *data(), radii=[0.0, 0.3], directions=1, metric="mse", **options).error[0]


def memory(model: nn.Module) -> Tensor:
    inputs = torch.ones(1, 1, dtype=torch.float64)
    return memory_sweep(model, 5, radii=[0.0, 0.3], directions=1, inputs=inputs, initial_output=0.0).values[:, 0]


def by_hand(model: nn.Module, call: Callable[[], Tensor]) -> Tensor:
    """What a call gives, for the parameters as they are and moved in place."""
    direction = random_direction(parameter_shapes(model), 0)
    model.eval()
    results = [call().detach()]
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.3 * direction[name])
    return torch.stack([*results, call().detach()])


@EACH
def test_numbers_are_those_of_calls(make: Callable[[], nn.Module]) -> None:
    model, (x, y) = make(), data()
    found = errors(model), memory(model)
    step = torch.ones(1, 5, 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    wanted = by_hand(
        model, lambda: torch.cat(((model(x) - y).square().mean()[None], model(step)[0, :, 0].diff(prepend=zero).abs()))
    )
    torch.testing.assert_close(found[0], wanted[:, 0], rtol=1e-10, atol=0)
    torch.testing.assert_close(found[1], wanted[:, 1:], rtol=1e-9, atol=1e-12)


@EACH
@pytest.mark.parametrize("call", [errors, memory])
def test_the_module_is_as_it_was(make: Callable[[], nn.Module], call: Callable[[nn.Module], Tensor]) -> None:
    model = make()
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()  # type: ignore[union-attr]
    before = state_of(model)
    call(model)
    assert state_of(model) == before


def test_what_a_call_changes_in_place() -> None:
    model = Counting()
    before = state_of(model)
    errors(model)
    memory(model)
    assert state_of(model) == before


class Failing(Unusual):
    """Raises in its n-th call, in the midst of things."""

    def __init__(self, call: int, error: BaseException) -> None:
        super().__init__()
        self.calls, self.error = iter(range(1, 1000)), error
        self.failing = call

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if next(self.calls) == self.failing:
            raise self.error
        return y


@pytest.mark.parametrize("error", [KeyboardInterrupt(), AttributeError("x"), MemoryError()])
@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("run", [errors, memory])
def test_as_it_was_after_an_error(run: Callable[[nn.Module], Tensor], call: int, error: BaseException) -> None:
    model = Failing(call, error)
    before = state_of(model)
    try:
        run(model)
    except type(error):
        pass
    else:
        assert next(model.calls) <= call
    assert state_of(model) == before


STRIDE = 7


def test_as_it_was_wherever_it_is_interrupted() -> None:
    """Ctrl-C at many lines of the file, in a call under two context managers."""
    model, x = Unusual(), data()[0]
    before, line = state_of(model), 0
    while interrupted_at(line, lambda: nested(model, x)):
        assert state_of(model) == before, line
        line += STRIDE
    assert line > 100 and state_of(model) == before


def nested(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad(), EvaluationMode(model), OtherTensors(model):
        model(x)


def interrupted_at(line: int, call: Callable[[], None]) -> bool:
    """Whether a call lasted until so many lines of the file had run, after which it was interrupted."""
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module_state.__file__:
            return None
        code = frame.f_code  # Python itself cannot tell an exit that has not begun from one that was never reached
        begun = code.co_name != "__exit__" or frame.f_lineno > code.co_firstlineno + 1
        left -= event == "line" and begun
        if left == -1:
            left -= 1
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_entries_keep_their_order() -> None:
    model = Layers()
    names = [name for name, _ in model.named_parameters()]
    with Preserved(model):
        weight = model.readout.weight
        del model.readout.weight
        model.readout.weight = nn.Parameter(weight.detach())
        model.extra = nn.Linear(1, 1)
        model.layer.eval()
    assert [name for name, _ in model.named_parameters()] == names
    assert model.readout.weight is weight and model.layer.training


class Merging(nn.Linear):
    """Adds a part to its weight for inference, as adapters do."""

    def __init__(self) -> None:
        super().__init__(1, 1, dtype=torch.float64)
        self.more, self.merged = nn.Parameter(torch.ones(1, 1, dtype=torch.float64)), False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += -self.more.data if mode else self.more.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if self.merged else x @ self.more)


def test_a_mode_is_a_flag() -> None:
    model, (x, y) = Merging(), data()
    before, wanted = state_of(model), (model(x) - y).square().mean().item()
    assert errors(model)[0].item() == pytest.approx(wanted, rel=1e-12)
    assert state_of(model) == before


class Late(nn.Module):
    """Makes its weight when it is called for the first time."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "weight"):
            self.weight = nn.Parameter(torch.ones(1, 1, dtype=x.dtype))
        return x @ self.weight


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(1), Late], ids=["LazyLinear", "own"])
@pytest.mark.parametrize("call", [errors, lambda model: memory_function(model, 3, input_size=1)])
def test_weights_that_are_not_yet_made(make: Callable[[], nn.Module], call: Callable[[nn.Module], object]) -> None:
    model = make()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"must have its weights: call it once before, got 'weight' not yet made"):
        call(model)
    assert state_of(model) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_are_refused() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(1, 1).double()))
    for call in (errors, lambda model: memory_function(model, 3, input_size=1)):
        with pytest.raises(TypeError, match=r"must be a module that torch\.jit has not compiled, got .* '0'"):
            call(model)


class Mixed(nn.Module):
    """A complex parameter, and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.tensor([[0.5 + 2j]]))
        self.order = nn.Parameter(torch.tensor([0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.phase)[..., self.order].imag


def test_numbers_that_are_not_real() -> None:
    """Float64's digits for complex numbers too, and integers stay integers."""
    found = memory_function(Mixed(), 3, inputs=torch.ones(1, 1), input_size=1)
    torch.testing.assert_close(found.values, torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))
