"""The nonlinear recurrence in chains: the bits of the sequential kernel, whatever the guesses are worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fenced_memory import FENCES, fenced, fences_here
from scan_cases import device_of, normal
from torch import Tensor

from cofm_triton.functional import rnn_scan
from cofm_triton.ops import paired_rnn_scan as paired_ops
from cofm_triton.ops import rnn_scan as ops
from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import launch, rnn_scan_chains

# Chunks of 36 rows and less: rates of 0.9 forget within 27 rows, and chains need five times as many.
LENGTH, RATE = 140, 0.9
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _NoLaunch:
    """A kernel that does nothing."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **options: None


@pytest.fixture(autouse=True)
def an_idle_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is cut, into short chunks."""
    for module in (ops, paired_ops):
        monkeypatch.setattr(module, "num_sms", lambda device: 132)
    monkeypatch.setattr(launch, "MIN_CHAINED", 60)
    monkeypatch.setattr(launch, "MIN_CHUNK", 20)


def leave_out(monkeypatch: pytest.MonkeyPatch, *kernels: str) -> None:
    """The chunks are as they are without these launches."""
    for kernel in kernels:
        monkeypatch.setattr(rnn_scan_chains, f"rnn_scan_{kernel}_kernel", _NoLaunch())


def bits(results: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [result.cpu().contiguous().view(BITS[result.element_size()]) for result in results]


def run(solver: str, x: Tensor, rate: Tensor, h0: Tensor | None = None, **options: Any) -> list[Tensor]:
    """Bits of the results."""
    device = device_of("triton")
    options = {name: option.to(device) if isinstance(option, Tensor) else option for name, option in options.items()}
    start = None if h0 is None else h0.to(device)
    return bits(rnn_scan(x.to(device), rate.to(device), start, backend="triton", solver=solver, **options))


def agree(x: Tensor, rate: Tensor, h0: Tensor | None = None, **options: Any) -> bool:
    return all(map(torch.equal, run("sequential", x, rate, h0, **options), run("auto", x, rate, h0, **options)))


@pytest.mark.parametrize(("nonlinearity", "dtype"), [("tanh", torch.float64), ("hardtanh", torch.bfloat16)])
def test_guesses_are_right_as_a_rule(nonlinearity: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first launch is enough."""
    leave_out(monkeypatch, "round", "fallback")
    # In float64 differences have twice as many digits to fade.
    x = normal(1, 240 if dtype == torch.float64 else 190, 3, dtype=dtype)
    assert agree(0.3 * x, torch.full((3,), RATE, dtype=dtype), normal(1, 3, dtype=dtype), nonlinearity=nonlinearity)


def test_slow_rates_leave_all_to_chunk_0(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch, "round", "fallback")
    assert agree(normal(1, 70, 3), torch.tensor([0.9, 1e-3, 0.9]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, which stands in for the machine, warns of infinities
def test_wrong_guesses_are_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    x, h0 = normal(1, LENGTH, 6), normal(1, 6)
    x[0, :, 0] *= 50  # hardly a step contracts
    x[0, 30, 1], x[0, 40, 2] = torch.nan, torch.inf
    h0[0, 3] = 1e20
    x[0, :, 4], h0[0, 4] = 0, 1  # decays for ever, where a guess is 0
    call = x, torch.full((6,), RATE), h0
    sequential = run("sequential", *call)
    assert all(map(torch.equal, run("auto", *call), sequential))
    leave_out(monkeypatch, "fallback")
    assert not all(map(torch.equal, run("auto", *call), sequential))


def test_rounds_make_warm_ups_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the steps saturate."""
    call = 1.5 * normal(1, LENGTH, 4), torch.full((4,), RATE)
    leave_out(monkeypatch, "fallback")
    sequential = run("sequential", *call)
    assert all(map(torch.equal, run("auto", *call), sequential))
    leave_out(monkeypatch, "round")
    assert not all(map(torch.equal, run("auto", *call), sequential))


def test_a_reset_is_a_right_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten but at resets: every warm-up has one."""
    leave_out(monkeypatch, "round", "fallback")
    x, h0 = 50 * normal(1, LENGTH, 3), normal(1, 3)
    resets = (torch.arange(LENGTH) % 20 == 0)[None]
    assert agree(x, torch.full((3,), RATE), h0, resets=resets)
    assert not agree(x, torch.full((3,), RATE), h0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("reset_to", ["h0", "zero"])
def test_resets_in_chunks_that_are_repaired(reset_to: str) -> None:
    x, resets = 50 * normal(1, LENGTH, 3), torch.zeros(1, LENGTH, dtype=torch.bool)
    resets[0, [10, 36, 75, 139]] = True
    x[0, 60, 1] = torch.nan
    assert agree(x, torch.full((3,), RATE), normal(1, 3), resets=resets, reset_to=reset_to)


@pytest.mark.parametrize(("dtype", "reset_to"), [(torch.float32, None), (torch.float64, None), (torch.float32, "h0")])
def test_packed_pairs(dtype: torch.dtype, reset_to: str | None) -> None:
    """One sequence is empty, one shorter than its chunks are worth, one starts inside what would be a chunk."""
    starts, (rate, turn) = torch.tensor([0, 0, 50]), torch.tensor([[0.8], [0.3]], dtype=dtype)
    x, h0 = normal(1, 200, 2, dtype=dtype), normal(3, 2, dtype=dtype)
    cut = {} if reset_to is None else dict(resets=(torch.arange(200) % 90 == 70)[None], reset_to=reset_to)
    assert agree(x, rate, h0, frequency=turn, seq_starts=starts, dt=0.9, **cut)


@fences_here
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_repairs_stay_inside() -> None:
    """Nothing outside of an array is read or written, and nothing that nobody has written counts."""
    x = 1.5 * normal(2, LENGTH, 3)
    x[0, 30, 1], x[1, :, 0] = torch.nan, 50 * x[1, :, 0]
    call = x, torch.full((3,), RATE), normal(2, 3)
    expected = run("sequential", *call)
    for fence in FENCES:
        with fenced(fence) as mode:
            found = run("auto", *map(mode.tensor, call))
        assert all(map(torch.equal, found, expected))


def test_relu_stays_sequential(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch, "chunk", "round", "fallback")
    assert agree(normal(1, 70, 2), torch.full((2,), RATE), nonlinearity="relu")
