"""Launch plans: what is repeated gives the bits of what was noted, for every number that it can be given."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import cofm_triton
from cofm_triton.ops import backends, launch_plan
from cofm_triton.ops import linear_scan as ops_linear_scan
from cofm_triton.ops.launch_plan import MAX_STEPS, NEVER, ONCE, Plan, Planned, signature
from cofm_triton.ops.linear_scan import linear_scan, linear_scan_backward
from cofm_triton.ops.rnn_scan import rnn_scan, rnn_scan_backward

pytestmark = pytest.mark.skipif(not backends.INSTALLED["triton"], reason="launch plans are Triton's")


def draw(*shape: int) -> Tensor:
    return torch.rand(shape)


def linear(gated: bool = False) -> tuple[Any, ...]:
    return draw(1, 6, 4), draw(1, 6, 4) if gated else draw(4), draw(1, 4), None, None, False, "h0", "triton"


def linear_backward(gated: bool = False) -> tuple[Any, ...]:
    resets = draw(1, 6) > 0 if gated else None
    decay = draw(1, 6, 4) if gated else draw(4)
    return draw(1, 6, 4), None, decay, draw(1, 6, 4), draw(1, 4), None, resets, True, "h0", "triton"


def nonlinear() -> tuple[Any, ...]:
    resets = draw(1, 5) > 0
    return draw(1, 5, 3), draw(1, 5, 3), None, torch.tensor([0, 2]), resets, 0.5, "tanh", "zero", "triton"


def nonlinear_backward() -> tuple[Any, ...]:
    h0, resets = draw(2, 3), draw(2, 5) > 0
    return (
        draw(2, 5, 3),
        draw(2, 3),
        draw(2, 5, 3),
        draw(3),
        draw(2, 5, 3),
        h0,
        None,
        resets,
        0.5,
        "tanh",
        "h0",
        "triton",
    )


CASES: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "linear": (linear_scan, linear),
    "linear, split": (linear_scan, linear),
    "gated": (linear_scan, lambda: linear(gated=True)),
    "linear backward": (linear_scan_backward, linear_backward),
    "gated backward, split": (linear_scan_backward, lambda: linear_backward(gated=True)),
    "nonlinear, packed": (rnn_scan, nonlinear),
    "nonlinear backward": (rnn_scan_backward, nonlinear_backward),
}


@pytest.fixture
def interpreted() -> Iterator[None]:
    if not backends.interpreting():
        pytest.skip("runs kernels in the interpreter")
    yield


@pytest.mark.parametrize("case", CASES)
def test_a_plan_gives_the_bits_of_the_operator(case: str, interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from cofm_triton.kernels import launch

    if "split" in case:
        monkeypatch.setattr(launch, "SPLIT_ROWS", 2)
        monkeypatch.setattr(launch, "MAX_SEGMENT", 1)
        monkeypatch.setattr(ops_linear_scan, "num_sms", lambda device: 200)
    operator, arguments = CASES[case]
    planned = Planned(operator)
    for _ in range(3):
        given = arguments()
        before = [value.clone() if isinstance(value, Tensor) else value for value in given]
        expected, actual = operator(*given), planned(*given)
        for one, other in zip(expected, actual, strict=True):
            assert torch.equal(one, other) and one.stride() == other.stride() and one.dtype == other.dtype
        for value, kept in zip(given, before, strict=True):
            assert value is kept or value == kept if not isinstance(value, Tensor) else torch.equal(value, kept)
    (plan,) = planned.plans.values()
    assert isinstance(plan, Plan) and plan.steps == len(plan.source.splitlines()) - 2


def test_a_plan_holds_no_tensor(interpreted: None) -> None:
    planned = Planned(linear_scan)
    for _ in range(3):
        planned(*linear())
    gc.collect()
    (plan,) = planned.plans.values()
    assert isinstance(plan, Plan)
    assert not [value for value in plan.repeat.__globals__.values() if isinstance(value, Tensor)]


def test_a_plan_lets_go_of_what_it_needs_no_longer() -> None:
    planned = Planned(lambda x: torch.cat((2 * x).unbind()) + 1)
    for _ in range(3):
        assert planned(torch.ones(2, 3)).tolist() == [3] * 6
    (plan,) = planned.plans.values()
    assert isinstance(plan, Plan)
    made, gone = (
        re.findall(r"v\d+", " ".join(re.findall(pattern, plan.source))) for pattern in (r".* = ", r"; del .*")
    )
    assert len(made) == 5 and len(gone) == 4 and {*made} - {*gone} == {*re.findall(r"return (v\d+)", plan.source)}


def test_threads_share_plans() -> None:
    planned = Planned(lambda x: (x.new_empty(x.shape).copy_(x).mul_(3), x + 1))
    inputs = [torch.full((5,), float(number)) for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(planned, inputs))
    assert all(
        torch.equal(three, 3 * x) and torch.equal(more, x + 1) for x, (three, more) in zip(inputs, found, strict=True)
    )


def test_changes_in_place_lists_and_parts_are_repeated() -> None:
    def operator(x: Tensor, factor: int) -> Tensor:
        first, second = torch.cat([x, factor * x]).unbind()
        room = x.new_empty((2, *first.shape))
        room[0] = first
        room[1].copy_(second).add_(1)
        return room

    planned = Planned(operator)
    for number in range(4):
        x = torch.full((1, 3), float(number))
        assert torch.equal(planned(x, 2), operator(x, 2))
    assert isinstance(planned.plans[signature((x, 2)) or ()], Plan)


@pytest.mark.parametrize("look", [lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x.tolist()])
def test_what_looks_at_numbers_is_not_planned(look: Callable[[Tensor], Any]) -> None:
    planned = Planned(lambda x: x if look(x) else -x)
    for value in (1.0, 1.0, -1.0, 1.0):
        planned(torch.full((1,), value))
    assert list(planned.plans.values()) == [NEVER]


def test_tensors_from_elsewhere_are_not_planned() -> None:
    other = torch.ones(1)
    planned = Planned(lambda x: x + other)
    assert [planned(torch.zeros(1)).item() for _ in range(3)] == [1, 1, 1]
    assert list(planned.plans.values()) == [NEVER]


def test_a_tensor_that_is_given_twice_stands_for_no_other() -> None:
    planned, one, two = Planned(lambda x, y: x - y), torch.ones(1), torch.zeros(1)
    found = [
        planned(*given).item() for given in ((one, one), (one, one), (one, two), (one, two), (two, one), (one, one))
    ]
    assert found == [0, 0, 1, 1, -1, 0]
    assert isinstance(planned.plans[signature((one, two)) or ()], Plan)


def test_signatures() -> None:
    x = torch.zeros(4, 8)
    others = [x.mT, x[:, 1:], x.double(), x[:2], None, x[:, :7].contiguous(), torch.zeros(33)[1:].view(4, 8), 1]
    assert len({signature((other, 0.5)) for other in [x, *others]}) == len(others) + 1
    assert signature((x.clone(), 0.5)) == signature((x, 0.5)) != signature((x, 0.25))

    class Other(Tensor):
        pass

    assert signature((x.as_subclass(Other),)) is None


def test_plans_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_plan, "MAX_STEPS", 3)
    planned = Planned(lambda x: 2 * x)
    for length in range(1, 10):
        for _ in range(3):
            assert planned(torch.ones(length)).sum() == 2 * length
        assert len(planned.plans) <= 3
    assert MAX_STEPS > 1000


@pytest.mark.parametrize("room", [0, 8])
def test_launches_go_to_the_current_stream(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a compiled kernel is launched with is what binder and launcher would hand on, past the launcher unless
    it has to make room.
    """
    from cofm_triton.kernels import launches

    seen: list[tuple[Any, ...]] = []
    streams = iter(range(100, 200))
    parameters = inspect.signature(lambda a_ptr, out_ptr, n, BLOCK: None)

    class Launcher:
        """As Triton's: it hands on what it is given, and something of its own, to a function."""

        def __init__(self) -> None:
            self.launch = lambda *given: seen.append(given)
            self.global_scratch_size = room

        def __call__(self, *given: Any) -> None:
            self.launch(*given[:9], self.global_scratch_size, given[9:])

    class Kernel:
        signature = parameters

        def __getitem__(self, grid: tuple[int]) -> Callable[..., Any]:
            binary = SimpleNamespace(run=Launcher(), function="f", packed_metadata="m")
            return lambda *arguments, **options: binary

    def operator(x: Tensor) -> Tensor:
        out = x.new_empty((2, 2))
        launches.launch(Kernel(), (7,))(x, out.unbind()[1], 3, BLOCK=32, num_warps=1)
        return out

    monkeypatch.setattr(launches, "current_stream", lambda device: next(streams))
    monkeypatch.setattr(launches, "followed", lambda: getattr(launches._here, "tell", None) is not None)
    planned = Planned(operator)
    for _ in range(4):
        x = torch.ones(2)
        out = planned(x)
    assert len(seen) == 2 and planned.plans != {signature((x,)): ONCE}
    assert [given[:10] for given in seen] == [
        (7, 1, 1, stream, "f", "m", None, None, None, room) for stream in (100, 101)
    ]
    (plan,) = planned.plans.values()
    assert isinstance(plan, Plan)
    if room:
        assert seen[-1][10][0] is x and seen[-1][10][2:] == (3, 32)
    else:  # a function of C takes addresses, for which no views are made
        assert seen[-1][10] == (x.data_ptr(), out.data_ptr() + 8, 3, 32)
        assert plan.steps == 2
    assert any(isinstance(value, Launcher) for value in plan.repeat.__globals__.values()) == bool(room)


def test_plans_within_plans_are_noted_whole(interpreted: None) -> None:
    inner = Planned(linear_scan)
    outer = Planned(lambda *given: inner(*given)[0] + 1)
    for _ in range(3):
        inner(*linear())
    for _ in range(4):
        given = linear()
        assert torch.equal(outer(*given), linear_scan(*given)[0] + 1)
    assert isinstance(outer.plans[signature(given) or ()], Plan)


def test_every_launch_can_be_noted() -> None:
    folder = Path(cofm_triton.__file__).parent / "kernels"
    direct = re.compile(r"^\s*\w+_kernel\[", re.MULTILINE)
    assert not [source.name for source in folder.glob("*.py") if direct.search(source.read_text())]
