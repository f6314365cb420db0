"""Layers and operators in graphs of `torch.export`, `torch.compile` and `torch.jit.trace`, for any batch and length."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import EagerAndRecordGraphs
from torch.export import Dim, ExportedProgram, export

import cofm_triton as cofm
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN

BATCH, TIME = Dim("batch"), Dim("time")
# Other sizes than the example's: fewer sequences than a vector has lanes, one, single steps, several chunks.
SIZES = [(1, 1), (3, 40), (20, 2), (1, 300)]
EXAMPLE = (9, 11)
LAYERS = [
    *((recurrence, nonlinearity, 1, False) for recurrence in RECURRENCES for nonlinearity in ("tanh", "linear")),
    *((recurrence, "hardtanh", 2, True) for recurrence in RECURRENCES),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def inputs(module: nn.Module, batch: int, length: int, with_state: bool = False) -> tuple[Tensor, ...]:
    x = torch.randn(batch, length, 3)
    if not with_state:
        return (x,)
    assert isinstance(module, StableRNN)
    return x, torch.randn(module.num_layers * (1 + module.bidirectional), batch, module.hidden_size)


def layer(recurrence: str, nonlinearity: str, num_layers: int, bidirectional: bool) -> StableRNN:
    options: dict[str, Any] = dict(batch_first=True, bidirectional=bidirectional, recurrence=recurrence)
    return StableRNN(3, 5, num_layers, nonlinearity, **options)


def reloaded(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """By the parameters in the order of their names: graphs have an order of their own."""
    result = module(x)
    y = result if isinstance(result, Tensor) else result[0]
    return list(torch.autograd.grad(y.square().sum(), [p for _, p in sorted(module.named_parameters())]))


# --- torch.export -------------------------------------------------------------------------------


@pytest.mark.parametrize(("recurrence", "nonlinearity", "num_layers", "bidirectional"), LAYERS)
def test_exported_layers(recurrence: str, nonlinearity: str, num_layers: int, bidirectional: bool) -> None:
    module, with_state = layer(recurrence, nonlinearity, num_layers, bidirectional), nonlinearity != "tanh"
    dims = ({0: BATCH, 1: TIME}, {1: BATCH})[: 1 + with_state]
    program = reloaded(export(module, inputs(module, *EXAMPLE, with_state), dynamic_shapes=dims)).module()
    for size in SIZES[:2]:
        other = inputs(module, *size, with_state)
        torch.testing.assert_close(program(*other), module(*other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strict", "train", "grad", "dims"),
    [
        (False, False, False, (BATCH, TIME)),
        (False, True, True, (BATCH, TIME)),
        (False, False, True, (Dim.AUTO, Dim.AUTO)),
        (True, True, True, (BATCH, TIME)),
    ],
)
def test_exported_functional(strict: bool, train: bool, grad: bool, dims: tuple[Any, Any]) -> None:
    """Fused for eight sequences and more, whatever the example."""
    module = RNNFunctional(3, 5, nonlinearity="tanh").train(train)
    with torch.set_grad_enabled(grad):
        program = export(module, inputs(module, *EXAMPLE), dynamic_shapes=({0: dims[0], 1: dims[1]},), strict=strict)
        again = reloaded(program)
        graphs = [program.module(), again.module(), again.run_decompositions().module()]
    for size in SIZES:
        (x,) = inputs(module, *size)
        for graph in graphs:
            torch.testing.assert_close(graph(x), module(x))
    for graph in graphs:
        torch.testing.assert_close(gradients(graph, x), gradients(module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_exported_program_runs_elsewhere(tmp_path: Path) -> None:
    """In a process that only imports the package, on a machine without the compiled path."""
    module = RNNFunctional(3, 5, nonlinearity="tanh")
    program = export(module, inputs(module, *EXAMPLE), dynamic_shapes=({0: BATCH, 1: TIME},))
    torch.export.save(program, tmp_path / "model.pt2")
    (x,) = inputs(module, 2, 17)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, cofm_triton\n"
        "from cofm_triton.ops import backends; backends.INSTALLED['numba'] = False\n"
        f"folder = {str(tmp_path)!r}\n"
        "model = torch.export.load(folder + '/model.pt2').module()\n"
        "torch.save(model(torch.load(folder + '/x.pt')).detach(), folder + '/y.pt')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), module(x).detach())


def test_a_backend_that_was_asked_for_stays() -> None:
    """And graphs of today's sizes keep nothing for a backward pass either."""
    for backend, name in ((None, "auto"), ("torch", "torch")):
        module = RNNFunctional(3, 5, backend=backend)
        nodes = export(module, inputs(module, *EXAMPLE)).graph.nodes
        (node,) = [node for node in nodes if node.target is torch.ops.cofm_triton.rnn_readout.default]
        assert node.args[-2:] == (name, False)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Any:
        return self.function(*arguments)


BT, STARTS = {0: BATCH, 1: TIME}, torch.tensor([0, 2, 2])


@pytest.mark.parametrize(
    ("function", "dims", "example", "other"),
    [
        (lambda x, a: cofm.linear_scan(x, a), (BT, BT), ((4, 11, 3), (4, 11, 3)), ((1, 2, 3), (1, 2, 3))),
        (lambda x, a: cofm.linear_scan(x, a), (BT, None), ((4, 11, 3), (3,)), ((7, 1, 3), (3,))),
        (lambda x, a: cofm.rnn_scan(x, a), (BT, None), ((4, 11, 3), (3,)), ((7, 1, 3), (3,))),
        (
            lambda x, a: cofm.dense_rnn(x, a, resets=x[..., 0] > 0.5),
            (BT, None), ((4, 11, 3), (3, 3)), ((7, 1, 3), (3, 3)),
        ),
        (
            lambda x, a, h0: cofm.rnn_scan(x, a, h0),
            (BT, None, {0: BATCH}), ((4, 11, 3), (3,), (4, 3)), ((1, 2, 3), (3,), (1, 3)),
        ),
        (lambda x, a: cofm.rnn_scan(x, a, seq_starts=STARTS), ({1: TIME}, None), ((1, 11, 3), (3,)), ((1, 2, 3), (3,))),
    ],
    ids=["gates", "linear", "rnn", "dense", "state", "packed"],
)  # fmt: skip
def test_exported_operators(function: Any, dims: Any, example: Any, other: Any) -> None:
    program = export(Call(function), tuple(torch.rand(shape) for shape in example), dynamic_shapes=(dims,)).module()
    arguments = tuple(torch.rand(shape) for shape in other)
    torch.testing.assert_close(program(*arguments), function(*arguments))


# --- torch.compile ------------------------------------------------------------------------------


def marked(x: Tensor) -> Tensor:
    torch._dynamo.mark_dynamic(x, 0)
    torch._dynamo.mark_dynamic(x, 1)
    return x


@pytest.mark.parametrize(("recurrence", "nonlinearity", "num_layers", "bidirectional"), LAYERS)
def test_compiled_once_for_ten_lengths(
    recurrence: str, nonlinearity: str, num_layers: int, bidirectional: bool
) -> None:
    module = layer(recurrence, nonlinearity, num_layers, bidirectional)
    check_compiled_once(module, "dynamic" if nonlinearity == "tanh" else "marked", "eager")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dynamic", "marked"])
@pytest.mark.parametrize("train", [False, True])
def test_functional_compiled_once_for_ten_lengths(train: bool, how: str) -> None:
    """The first length has a single kept state, whose number nothing may depend on."""
    module = RNNFunctional(3, 5, nonlinearity="tanh")
    for parameter in module.parameters():
        parameter.requires_grad_(train)
    check_compiled_once(module, how, "aot_eager")


def check_compiled_once(module: nn.Module, how: str, backend: str) -> None:
    compiled = torch.compile(module, backend=backend, fullgraph=True, dynamic=True if how == "dynamic" else None)
    sizes = zip((9, 2, 64, 4, 5, 17, 8, 7, 12, 30), (11, 2, 7, 120, 300, 16, 33, 3, 50, 20), strict=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, length in sizes:
            x = torch.randn(batch, length, 3)
            result = compiled(marked(x) if how == "marked" else x)
            torch.testing.assert_close(result, module(x))
            if isinstance(result, Tensor) and result.requires_grad:
                ours, theirs = (
                    torch.autograd.grad(y.square().mean(), list(module.parameters())) for y in (result, module(x))
                )
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_batches_of_a_compiled_model_keep_their_operator() -> None:
    """Of sizes that are known when it is compiled: parts for few sequences, one operator for many."""
    model, recorder = RNNFunctional(3, 5), EagerAndRecordGraphs()
    for batch, fused in ((2, False), (9, True)):
        torch.compile(model, backend=recorder, dynamic=False)(torch.randn(batch, 11, 3))
        targets = {str(node.target) for node in recorder.graphs[-1].graph.nodes}
        assert any("rnn_readout" in target for target in targets) is fused


# --- torch.jit ----------------------------------------------------------------------------------

quiet = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")


def check_traced(module: nn.Module) -> None:
    traced = torch.jit.trace(module, inputs(module, *EXAMPLE))  # runs it again without gradients, and compares
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in SIZES[:3]:
        (x,) = inputs(module, *size)
        torch.testing.assert_close(loaded(x), module(x))
    torch.testing.assert_close(gradients(loaded, x), gradients(module, x), rtol=1e-4, atol=1e-4)


@quiet
@pytest.mark.parametrize(("recurrence", "nonlinearity", "num_layers", "bidirectional"), LAYERS)
def test_traced_layers(recurrence: str, nonlinearity: str, num_layers: int, bidirectional: bool) -> None:
    check_traced(layer(recurrence, nonlinearity, num_layers, bidirectional))


@quiet
@pytest.mark.parametrize("grad", [False, True])
def test_traced_functional(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        module = RNNFunctional(3, 5, nonlinearity="tanh")
        traced = torch.jit.trace(module, inputs(module, *EXAMPLE))
    (x,) = inputs(module, 2, 40)
    torch.testing.assert_close(traced(x), module(x))
    if grad:
        check_traced(module)


@quiet
@pytest.mark.parametrize("model", [StableRNN(3, 5), RNNFunctional(3, 5), nn.Sequential(StableRNN(3, 5))])
def test_scripting_is_refused(model: nn.Module) -> None:
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script does not take cofm_triton's layers: use torch\.export"):
        torch.jit.script(model)
