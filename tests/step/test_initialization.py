"""Fresh weights on parameters without numbers, in shards, and while PyTorch only pretends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN
from cofm_triton.step.initialization import assign, random_orthogonal
from cofm_triton.step.parameterization import PARAMETERIZATIONS

KINDS = [(r, c) for r in RECURRENCES for c in ((True, False) if r in ("orthogonal", "dense") else (True,))]


def can_pretend(device: str) -> bool:
    """Whether PyTorch pretends to compute on a device: not on a GPU without CUDA, 2.8 and 2.14 not without a driver."""
    try:
        with FakeTensorMode():
            x = torch.empty(2, device=device).uniform_().requires_grad_()
            (x * x).sum().backward()
    except RuntimeError:
        return False
    return True


FAKE_DEVICES = [device for device in ("cpu", "cuda") if can_pretend(device)]


def made(recurrence: str, constrained: bool, **options: Any) -> StableRNN:
    torch.manual_seed(0)
    return StableRNN(2, 5, 2, recurrence=recurrence, constrained=constrained, batch_first=True, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_assign_takes_any_dtype(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.empty(3, dtype=dtype))
    assign(parameter, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert parameter.dtype == dtype and parameter.tolist() == [0.5, 1.0, 2.0] and parameter.requires_grad


def test_random_matrices_are_orthogonal() -> None:
    basis = random_orthogonal(6, torch.device("cpu"))
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert not torch.equal(basis, random_orthogonal(6, torch.device("cpu")))
    assert random_orthogonal(6, torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize(("recurrence", "constrained"), KINDS)
def test_a_layer_without_numbers_gets_them_later(recurrence: str, constrained: bool) -> None:
    direct = made(recurrence, constrained)
    layer = made(recurrence, constrained, device="meta").to_empty(device="cpu")
    torch.manual_seed(0)
    assert isinstance(layer, StableRNN)
    layer.reset_parameters()
    for (name, ours), expected in zip(layer.named_parameters(), direct.parameters(), strict=True):
        assert torch.equal(ours, expected), name


@pytest.mark.parametrize("device", FAKE_DEVICES)
@pytest.mark.parametrize(("recurrence", "constrained"), KINDS)
def test_nothing_is_read_while_pytorch_pretends(recurrence: str, constrained: bool, device: str) -> None:
    with FakeTensorMode():
        layer = made(recurrence, constrained, device=device)
        output, _ = layer(torch.randn(3, 7, 2, device=device))
        output.sum().backward()
    assert output.shape == (3, 7, 5) and output.device.type == device
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
def test_every_parameterization_starts_without_reading(kind: str) -> None:
    with FakeTensorMode():
        assert StableRNN(1, 3, parameterization=kind).rate_l0.shape == (2,)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    meeting = tmp_path_factory.mktemp("gloo") / "meeting"
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{meeting}")
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(("recurrence", "constrained"), KINDS)
def test_fully_sharded_layers(recurrence: str, constrained: bool) -> None:
    """As FSDP2 wants it: shapes, shards, memory, then numbers; the same numbers as without shards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    layer, direct = made(recurrence, constrained, device="meta"), made(recurrence, constrained)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    layer.to_empty(device="cpu")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "DTensor random operators", UserWarning)
        layer.reset_parameters()
    assert all(isinstance(parameter, DTensor) for parameter in layer.parameters())
    assert torch.equal(_whole(layer.rate_l0), direct.rate_l0)
    x = torch.randn(3, 7, 2)
    output, _ = layer(x)
    direct.load_state_dict({name: _whole(p) for name, p in layer.state_dict().items()})
    assert torch.equal(output, direct(x)[0])


def _whole(value: Tensor) -> Tensor:
    """A sharded parameter as one tensor; the options beside them are whole."""
    return value.full_tensor().detach() if hasattr(value, "full_tensor") else value
