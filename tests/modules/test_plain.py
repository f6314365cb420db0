"""What is no more than its class says, and that everything else is called: errors and memories against direct calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as base
from torch.nn.utils import parametrize, prune

from cofm_triton.experiment.training import train_linear, with_nonlinearity
from cofm_triton.layers.rnn_functional import RNNFunctional, is_plain
from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN
from cofm_triton.memory.diagonal import HeavisideCells
from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep
from cofm_triton.perturbation.curve import perturbation_error
from cofm_triton.perturbation.directions import parameter_shapes, random_direction, slow_direction
from cofm_triton.perturbation.verdict import slow_direction_radius
from cofm_triton.perturbation.worst_case import ascend

RTOL = 1e-10
Make = Callable[[], RNNFunctional]

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated in favor of.*:FutureWarning")


def functional(**options: Any) -> RNNFunctional:
    torch.manual_seed(0)
    given = {"nonlinearity": "tanh", "dtype": torch.float64, **options}
    model = RNNFunctional(3, 3, 3, **given)
    with torch.no_grad():
        model.rnn.bias_l0.add_(0.3)  # type: ignore[union-attr]
    return model


class Shifted(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 100


class Called(nn.Linear):
    def __call__(self, *arguments: Any) -> Any:
        return super().__call__(*arguments) - 7


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Subclass(RNNFunctional):
    def forward(self, input: Any) -> Any:  # type: ignore[override]
        return super().forward(input) + 1


def tied_layers() -> RNNFunctional:
    model = functional(num_layers=2)
    for name in ("weight_ih", "bias", "rate"):
        setattr(model.rnn, name + "_l1", getattr(model.rnn, name + "_l0"))
    return model


def changed(change: Callable[[RNNFunctional], object], **options: Any) -> Make:
    """A model that something was done to."""

    def make() -> RNNFunctional:
        model = functional(**options)
        change(model)
        return model

    return make


def own_forward(part: str) -> Callable[[RNNFunctional], None]:
    def change(model: RNNFunctional) -> None:
        module = model.get_submodule(part)
        old = module.forward

        def forward(*arguments: Any) -> Any:
            output = old(*arguments)
            return (output[0] + 100, output[1]) if isinstance(output, tuple) else output + 100

        module.forward = forward

    return change


def own_run(model: RNNFunctional) -> None:
    old = model.rnn._run
    model.rnn._run = lambda *a: tuple(2 * part for part in old(*a))  # type: ignore[method-assign]


def buffer_for_bias(model: RNNFunctional) -> None:
    del model.rnn.bias_l0
    model.rnn.register_buffer("bias_l0", torch.ones(3, dtype=torch.float64))


def attribute_for_bias(model: RNNFunctional) -> None:
    del model.readout.bias
    model.readout.bias = torch.ones(3, dtype=torch.float64)  # type: ignore[assignment]


def set_in(part: str, name: str, value: Callable[[RNNFunctional], Any]) -> Callable[[RNNFunctional], None]:
    return lambda model: setattr(model.get_submodule(part), name, value(model))


CHANGED = {
    "tied layers": tied_layers,
    "tied biases": changed(set_in("readout", "bias", lambda m: m.rnn.bias_l0)),
    "tied weights": changed(set_in("readout", "weight", lambda m: m.rnn.weight_ih_l0)),
    "tied in the layer": changed(set_in("rnn", "bias_l0", lambda m: m.rnn.rate_l0)),
    "forward": changed(own_forward("")),
    "forward of the layer": changed(own_forward("rnn")),
    "forward of the read-out": changed(own_forward("readout")),
    "another method": changed(own_run),
    "another class": changed(set_in("readout", "__class__", lambda m: Shifted)),
    "another call": changed(set_in("readout", "__class__", lambda m: Called)),
    "another part": changed(set_in("", "readout", lambda m: nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double())),
    "another layer": changed(set_in("", "rnn", lambda m: nn.GRU(3, 3, batch_first=True).double())),
    "subclass": lambda: Subclass(3, 3, 3, dtype=torch.float64),
    "hook": changed(lambda m: m.readout.register_forward_hook(lambda module, args, output: 3 * output)),
    "pre-hook": changed(lambda m: m.rnn.register_forward_pre_hook(lambda module, args: (2 * args[0],))),
    "buffer": changed(buffer_for_bias),
    "attribute": changed(attribute_for_bias),
    "one bias for all": changed(set_in("rnn", "bias_l0", lambda m: nn.Parameter(torch.ones(1).double()))),
    "parametrised rate": changed(lambda m: parametrize.register_parametrization(m.rnn, "rate_l0", Twice())),
    "parametrised basis": changed(
        lambda m: parametrize.register_parametrization(m.rnn, "basis_l0", Twice(), unsafe=True),
        recurrence="orthogonal",
    ),
    "weight_norm": changed(lambda m: nn.utils.weight_norm(m.readout)),
    "weight_norm of the layer": changed(lambda m: nn.utils.weight_norm(m.rnn, "weight_ih_l0")),
    "spectral_norm": changed(lambda m: nn.utils.spectral_norm(m.readout).double()),
    "weight_norm, parametrised": changed(lambda m: nn.utils.parametrizations.weight_norm(m.readout)),
    "spectral_norm, parametrised": changed(lambda m: nn.utils.parametrizations.spectral_norm(m.rnn, "weight_ih_l0")),
    "pruned": changed(lambda m: prune.l1_unstructured(m.rnn, "weight_ih_l0", amount=0.5)),
}
EACH = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in CHANGED.items()])


def data(sequences: int = 9, length: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, sequences, length, 3, dtype=torch.float64, generator=generator)
    return x, y


@contextmanager
def moved(model: nn.Module, direction: dict[str, Tensor], radius: float) -> Iterator[None]:
    """The model itself, in evaluation mode, every parameter moved in place."""
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    training = model.training
    model.eval()
    with torch.no_grad():
        for name, p in parameters.items():
            p.add_(radius * direction.get(name, torch.zeros_like(p)))
        yield
        for name, p in parameters.items():
            p.copy_(before[name])
    model.train(training)


def error(model: nn.Module, direction: dict[str, Tensor], radius: float, x: Tensor, y: Tensor) -> float:
    with moved(model, direction, radius):
        return (model(x) - y).square().mean().item()


@EACH
def test_errors_are_those_of_calls(make: Make) -> None:
    model, (x, y) = make(), data()
    assert not is_plain(model)
    direction = random_direction(parameter_shapes(model), 0)
    wanted = [error(model, direction, radius, x, y) for radius in (0.0, 0.2)]
    curve = perturbation_error(model, x, y, radii=[0.0, 0.2], directions=1, metric="mse")
    assert curve.error[0].tolist() == pytest.approx(wanted, rel=RTOL)
    assert error(model, direction, 0.2, x, y) == pytest.approx(wanted[1], rel=RTOL)


@EACH
def test_outputs_do_not_depend_on_the_batch(make: Make) -> None:
    """Large batches take the fused read-out where there is one, small ones do not."""
    model, (x, _) = make().eval(), data(8)
    torch.testing.assert_close(model(x), torch.cat([model(part) for part in x.split(1)]), rtol=1e-12, atol=1e-12)


MEMORIES = ("tied layers", "tied biases", "forward of the read-out", "hook", "weight_norm", "attribute", "another call")


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_are_those_of_calls(name: str) -> None:
    model, inputs = CHANGED[name](), torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64)
    direction = random_direction(parameter_shapes(model), 0)
    sweep = memory_sweep(model, 6, radii=[0.0, 0.2], directions=1, inputs=inputs)
    for r, radius in enumerate((0.0, 0.2)):
        with moved(model, direction, radius):
            y = model(inputs[:, None].expand(-1, 6, -1))[0]
            rest = model.readout(torch.zeros(1, 1, 3, dtype=torch.float64))[0]
        wanted = torch.diff(y, dim=0, prepend=rest).abs().amax(1)
        torch.testing.assert_close(sweep.values[r, 0], wanted, rtol=1e-9, atol=1e-12)
    memory = memory_function(model, 6, inputs=inputs)
    torch.testing.assert_close(memory.values, sweep.values[0, 0], rtol=RTOL, atol=0)


@pytest.mark.parametrize("name", ["tied layers", "tied biases", "forward of the read-out"])
def test_searches_move_a_shared_tensor_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = CHANGED[name](), data()
    slow = perturbation_error(model, x, y, radii=[0.3], search="slow", metric="mse")
    direction = slow_direction(model)
    assert set(direction) <= {name for name, _ in model.named_parameters()}
    assert slow.error.item() == pytest.approx(error(model, direction, 0.3, x, y), rel=RTOL)
    monkeypatch.setattr("cofm_triton.perturbation.curve.ascend", partial(ascend, steps=2))
    worst = perturbation_error(model, x, y, radii=[0.3], directions=1, search="gradient", metric="mse")
    assert worst.found is not None and set(worst.found[0][0]) == set(parameter_shapes(model))
    assert worst.error.item() == pytest.approx(error(model, worst.found[0][0], 1.0, x, y), rel=RTOL)
    assert worst.error.item() > worst.per_direction.item()


def test_a_rate_has_one_name_in_all_layers() -> None:
    pair = nn.ModuleList([StableRNN(3, 3), StableRNN(3, 3)])
    pair[1].rate_l0 = pair[0].rate_l0
    assert [*slow_direction(pair)] == ["0.rate_l0"]


GLOBAL = {
    "register_module_forward_hook": lambda module, args, output: 2 * output if type(module) is nn.Linear else None,
    "register_module_forward_pre_hook": lambda module, args: (2 * args[0],) if type(module) is nn.Linear else None,
    "register_module_full_backward_hook": lambda module, into, out: None,
    "register_module_full_backward_pre_hook": lambda module, out: None,
}


@pytest.mark.parametrize("name", GLOBAL)
def test_hooks_of_all_modules(name: str) -> None:
    model, (x, y) = functional(), data()
    assert is_plain(model)
    handle = getattr(base, name)(GLOBAL[name])
    try:
        assert not is_plain(model)
        output = model(x)
        torch.testing.assert_close(output, torch.cat([model(part) for part in x.split(1)]), rtol=1e-12, atol=1e-12)
        wanted = (output - y).square().mean().item()
        curve = perturbation_error(model, x, y, radii=[0.0], directions=1, metric="mse")
        assert curve.error.item() == pytest.approx(wanted, rel=RTOL)
    finally:
        handle.remove()
    assert is_plain(model)


@pytest.mark.parametrize("part", ["", "rnn", "readout"])
@pytest.mark.parametrize(
    "name",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
     "register_full_backward_pre_hook"],
)  # fmt: skip
def test_own_hooks(part: str, name: str) -> None:
    model = functional()
    handle = getattr(model.get_submodule(part), name)(lambda *arguments: None)
    assert not is_plain(model)
    handle.remove()
    assert is_plain(model)


@pytest.mark.parametrize("cls", [RNNFunctional, StableRNN, nn.Linear])
def test_a_forward_that_a_class_was_given_later(cls: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model = functional()
    monkeypatch.setattr(cls, "forward", lambda *arguments: None)
    assert not is_plain(model)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_plain(recurrence: str, constrained: bool, bias: bool) -> None:
    model = RNNFunctional(2, 3, 4, recurrence=recurrence, constrained=constrained, bias=bias)
    assert is_plain(model)
    model.register_state_dict_pre_hook(lambda *arguments: None)
    model.readout.bias = None  # type: ignore[assignment]
    model.requires_grad_(False).eval()
    assert is_plain(model)
    model.rnn.dt = 0.5  # an option of the class
    assert is_plain(model)


@pytest.mark.parametrize("units", [1, 3, 4])
@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
def test_pairs_and_normalised_inputs_are_plain(recurrence: str, units: int) -> None:
    for normalize_input in (False, True):
        model = RNNFunctional(2, units, recurrence=recurrence, oscillating=True, normalize_input=normalize_input)
        assert is_plain(model)
        model.rnn.frequency_l0 = nn.Parameter(torch.zeros(7))  # of another shape
        assert not is_plain(model)
    assert is_plain(RNNFunctional(2, units, recurrence=recurrence, normalize_input=True))
    assert is_plain(RNNFunctional(2, units, parameterization="lru", normalize_input="paper"))


@pytest.mark.parametrize(
    "model",
    [
        RNNFunctional(2, 3, num_layers=2),
        RNNFunctional(2, 3, bidirectional=True),
        nn.Sequential(RNNFunctional(2, 3)),
        nn.RNN(2, 3),
        torch.compile(RNNFunctional(2, 3), backend="eager"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_not(model: nn.Module) -> None:
    assert not is_plain(model)


class Traceable(Tensor):
    """A tensor that says of itself that it computes by rules of its own."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [], None


def test_tensors_with_rules_of_their_own() -> None:
    model = functional()
    model.readout.weight = nn.Parameter(model.readout.weight.detach().as_subclass(Traceable))
    assert not is_plain(model)


def test_nothing_that_was_made_of_other_tensors_is_used() -> None:
    """`parametrize.cached()` of the caller keeps P, which perturbed copies have to make anew."""
    model, (x, y) = functional(recurrence="orthogonal"), data()
    options: dict[str, Any] = {"radii": [0.3], "directions": 2}
    wanted = perturbation_error(model, x, y, **options).per_direction
    norm = nn.utils.parametrizations.weight_norm(functional().readout)
    other = perturbation_error(norm, x, y, **options).per_direction
    with parametrize.cached():
        model(x), norm(x)
        assert torch.equal(perturbation_error(model, x, y, **options).per_direction, wanted)
        assert torch.equal(perturbation_error(norm, x, y, **options).per_direction, other)
        kept = norm.weight
        assert norm.weight is kept


def test_verdicts_call_what_is_not_plain() -> None:
    """Data that one of two models fits, by a hook that doubles its outputs; equal but for that."""
    model, doubled, (x, _) = functional(), functional(), data()
    y = 2 * model(x).detach()
    doubled.readout.register_forward_hook(lambda module, args, output: 2 * output)
    assert slow_direction_radius([model, doubled], x, y, max_radius=2e-6) == [0.0, 2e-6]


def test_shortcuts_refuse_what_is_not_plain() -> None:
    model = RNNFunctional(1, 2, nonlinearity="linear", num_layers=2, dtype=torch.float64)
    with pytest.raises(ValueError, match="model must be a plain RNNFunctional"):
        HeavisideCells.of(model, {})
    for call in (lambda: train_linear([model], None, steps=1), lambda: with_nonlinearity(model, "tanh")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="models must be RNNFunctional of one layer"):
            call()
    for option in ("learnable_dt", "normalize_input"):
        given: dict[str, Any] = {option: True}
        other = RNNFunctional(1, 2, nonlinearity="linear", dtype=torch.float64, **given)
        with pytest.raises(ValueError, match="without normalised inputs, learnable steps"):
            train_linear([other], None, steps=1)  # type: ignore[arg-type]
    frozen = RNNFunctional(1, 2, nonlinearity="linear", dtype=torch.float64)
    frozen.readout.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="must have no frozen parameters"):
        train_linear([frozen], None, steps=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["", "rnn"])
def test_compiled_models_keep_their_step(part: str) -> None:
    model, inputs = functional(dt=0.25), torch.ones(1, 3, dtype=torch.float64)
    wanted = memory_function(model, 4, inputs=inputs)
    if part:
        model.rnn = torch.compile(model.rnn, backend="eager")  # type: ignore[assignment]
    other: Any = model if part else torch.compile(model, backend="eager")
    rest = model.readout.bias.detach()
    with torch.compiler.set_stance("force_eager"):
        memory = memory_function(other, 4, inputs=inputs, initial_output=rest)
    assert memory.settings.dt == 0.25
    torch.testing.assert_close(memory.values, wanted.values, rtol=1e-9, atol=1e-12)
