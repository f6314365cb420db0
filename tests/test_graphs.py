"""Layers and operators in graphs of `torch.export`, `torch.compile` and `torch.jit.trace`, for any batch and length."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_gpu
import pytest
import torch
from fake_gpu import Recorder
from scan_cases import Problem, dense_problem, gated_problem, linear_problem, paired_problem, rnn_problem
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter, EagerAndRecordGraphs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram, export

import cofm_triton as cofm
from cofm_triton.evidence.operators.rnn_readout import readout_problem
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

# What takes inductor's time is not what is tested: no header for many kernels, no vectors, no processes of its own.
QUICKLY = {
    "compile_threads": 1, "cpp.simdlen": 1, "cpp_cache_precompile_headers": False,
    "aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0",
}  # fmt: skip


TEN_SIZES = list(zip((9, 2, 64, 4, 5, 17, 8, 7, 12, 30), (11, 2, 7, 120, 300, 16, 33, 3, 50, 20), strict=True))


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
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, length in TEN_SIZES:
            x = torch.randn(batch, length, 3)
            result = compiled(marked(x) if how == "marked" else x)
            torch.testing.assert_close(result, module(x))
            if isinstance(result, Tensor) and result.requires_grad:
                ours, theirs = (
                    torch.autograd.grad(y.square().mean(), list(module.parameters())) for y in (result, module(x))
                )
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_compiled_twice_where_nothing_is_said() -> None:
    """For the first sizes, and then for all: PyTorch finds out that they vary."""
    module, counter = StableRNN(3, 5, batch_first=True), CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for batch, length in TEN_SIZES:
        compiled(torch.randn(batch, length, 3))
    assert counter.frame_count == 2


@pytest.mark.slow
def test_batches_of_a_compiled_model_keep_their_operator() -> None:
    """Of sizes that are known when it is compiled: parts for few sequences, one operator for many."""
    model, recorder = RNNFunctional(3, 5), EagerAndRecordGraphs()
    for batch, fused in ((2, False), (9, True)):
        torch.compile(model, backend=recorder, dynamic=False)(torch.randn(batch, 11, 3))
        targets = {str(node.target) for node in recorder.graphs[-1].graph.nodes}
        assert any("rnn_readout" in target for target in targets) is fused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler about itself
def test_training_steps_compiled_once_by_inductor() -> None:
    """A step of a layer with both passes, for any batch and length; the optimiser changes what it reads."""
    module = StableRNN(3, 5, batch_first=True, oscillating=False)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True), torch._inductor.config.patch(QUICKLY):
        for batch, length in TEN_SIZES:
            x = torch.randn(batch, length, 3)
            output, _ = compiled(x)
            torch.testing.assert_close(output, module(x)[0])
            output.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler about itself
def test_programs_run_elsewhere(tmp_path: Path) -> None:
    """For any batch and length, in a process without the compiled path: a package that was compiled ahead of time, by
    the operators alone, without the source of the model, and an exported program.
    """
    dims, package, program = ({0: BATCH, 1: TIME},), tmp_path / "package.pt2", tmp_path / "program.pt2"
    layer, model = StableRNN(3, 5, batch_first=True, oscillating=False).eval(), RNNFunctional(3, 5, nonlinearity="tanh")
    with torch.no_grad(), torch._inductor.config.patch(QUICKLY):
        exported = export(layer, inputs(layer, *EXAMPLE), dynamic_shapes=dims)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
    torch.export.save(export(model, inputs(model, *EXAMPLE), dynamic_shapes=dims), program)
    (x,) = inputs(layer, 4, 17)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, cofm_triton.ops\n"
        "from cofm_triton.ops import backends; backends.INSTALLED['numba'] = False\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        f"by_package = torch._inductor.aoti_load_package({str(package)!r})(x)\n"
        "assert 'cofm_triton.layers' not in sys.modules\n"
        f"y = torch.export.load({str(program)!r}).module()(x).detach()\n"
        f"torch.save((*by_package, y), {str(tmp_path / 'y.pt')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), (*layer(x), model(x)))


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


# --- ONNX ---------------------------------------------------------------------------------------


class OneStep(nn.Module):
    """A step of a layer as a module, as docs/distributed.md has it."""

    def __init__(self, layer: StableRNN) -> None:
        super().__init__()
        with torch.no_grad():
            self.stepper = layer.prepared()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.stepper.step(x, h)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter about itself
@pytest.mark.parametrize(
    "options",
    [{}, dict(recurrence="diagonal", nonlinearity="tanh"), dict(recurrence="dense"), dict(gated=True)],
    ids=str,
)
def test_steps_run_in_onnxruntime(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, with which PyTorch exports, is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    module = StableRNN(3, 6, num_layers=2, **options).eval()
    example = torch.randn(2, 3), torch.randn(2, 2, 6)
    with torch.no_grad():
        program = torch.onnx.export(OneStep(module), example, dynamo=True, dynamic_shapes=({0: "batch"}, {1: "batch"}))
    assert program is not None
    program.save(tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    names, h = [node.name for node in session.get_inputs()], torch.randn(2, 5, 6)
    for x in torch.randn(3, 5, 3):
        expected = module.step(x, h)
        found = session.run(None, dict(zip(names, (x.numpy(), h.numpy()), strict=True)))
        h = torch.from_numpy(found[1])
        torch.testing.assert_close((torch.from_numpy(found[0]), h), expected)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter about itself
@pytest.mark.parametrize("module", [StableRNN(3, 5), RNNFunctional(3, 5)])
def test_onnx_says_what_to_do(module: nn.Module) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, with which PyTorch exports, is not installed")
    with pytest.raises(RuntimeError, match=r"Export one step, `layer\.prepared\(\)\.step`"):
        torch.onnx.export(module, (torch.randn(9, 7, 3),), dynamo=True)


# --- fake tensors of a GPU ----------------------------------------------------------------------


def on_gpu(mode: FakeTensorMode, value: Any) -> Any:
    """A tensor without numbers, of the same layout, on a GPU; what is no tensor as it is there."""
    if not isinstance(value, Tensor):
        return "triton" if value == "torch" else value
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


PROBLEMS = [
    linear_problem(2, 5, 4), linear_problem(2, 5, 4, pairs=True, gated=True), rnn_problem(2, 5, 4),
    paired_problem(2, 5, 2), gated_problem(2, 5, 4, turning=True), dense_problem(2, 5, 4),
]  # fmt: skip
READOUTS = [readout_problem(2, 5, 4, act_in="tanh"), readout_problem(2, 5, 4, act_out="tanh", paired=True)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.operator.name)
def test_the_choice_for_tensors_of_a_gpu(problem: Problem) -> None:
    mode, recorder = FakeTensorMode(), Recorder()
    tensors = {name: on_gpu(mode, tensor) for name, tensor in problem.tensors.items()}
    with torch.no_grad(), mode, recorder:
        problem.operator.function(**tensors, **problem.options)
    (call,) = recorder.calls
    assert "triton" in call[1]


@pytest.mark.parametrize("problem", PROBLEMS + READOUTS, ids=lambda problem: problem.operator.name)
def test_fake_tensors_of_a_gpu(problem: Problem) -> None:
    """Of every operator: results and gradients without numbers look like those of the CPU."""
    mode, recorder = FakeTensorMode(), Recorder()
    with recorder:
        problem.run("torch")
    assert len(recorder.calls) == 2  # a pass each
    for operator, arguments, results in recorder.calls:
        with torch.no_grad(), mode:
            fakes = operator(*(on_gpu(mode, argument) for argument in arguments))
        for fake, result in zip(fakes, results, strict=True):
            assert (fake.shape, fake.dtype, fake.device.type) == (result.shape, result.dtype, "cuda")


@pytest.mark.slow
def test_layers_on_fake_tensors_of_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, fake_gpu.__file__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
