"""The compiled and the PyTorch iteration of pre-activations: each other's numbers, and the definition's."""

from types import ModuleType

import pytest
import torch
from sweep_cases import increment_arguments

from cofm_triton.cpu.blocked import memory_increment as blocked

jit = pytest.importorskip("cofm_triton.cpu.jit.memory_increment", reason="numba is not installed")


@pytest.mark.parametrize("name", ["tanh", "hardtanh", "relu"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, [0]), (3, 150, 7, 2, [0, 1, 9]), (2, 16, 1, 3, [4, 5, 50]), (1, 300, 4, 1, [33])]
)
def test_both_are_the_recursion(shape: tuple[int, int, int, int, list[int]], name: str) -> None:
    drive, decay, step, readout, steps = increment_arguments(*shape)
    act = {"tanh": torch.tanh, "hardtanh": torch.nn.functional.hardtanh, "relu": torch.relu}[name]
    z, rows = drive, []
    for _ in range(int(steps[-1]) + 1):
        rows.append(torch.einsum("knm,kpm->knp", act(z), readout))  # type: ignore[operator]
        z = z - step[:, None] * act(z)  # type: ignore[operator]
    wanted = torch.stack(rows, 2)[:, :, steps]
    # The plain recursion rounds z to 2^-53 of its first size, 10 at most, at every step.
    tolerance = dict(rtol=1e-12, atol=1e-14 * (int(steps[-1]) + 10))
    for module in (jit, blocked):
        actual = module.sampled_increments(name, drive, decay, step, readout, steps)
        torch.testing.assert_close(actual, wanted, **tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [jit, blocked])
@pytest.mark.parametrize(("drive", "decay"), [(1e-12, 1.5), (1e-12, -1.5), (-3.0, 0.5), (3.0, -0.5)])
def test_large_and_growing_drives_take_every_step(drive: float, decay: float, module: ModuleType) -> None:
    """Only what is small and shrinks may jump, be it far or not."""
    start, (step, readout) = torch.full((1, 2, 1), drive, dtype=torch.float64), torch.ones(2, 1, 1, dtype=torch.float64)
    for last in (7, 90):
        given = start, decay * step, (1 - decay) * step, readout[None], torch.tensor([last])
        actual, z = module.sampled_increments("tanh", *given), start
        for _ in range(last):
            z = z - (1 - decay) * torch.tanh(z)
        # A step of the plain recursion has a product and a sum, which round z or, where it shrinks, its first size.
        rounding = 4 * last * torch.finfo(z.dtype).eps
        torch.testing.assert_close(actual[..., 0], torch.tanh(z), rtol=2 * rounding, atol=rounding * abs(drive))


def test_threads_change_no_bit() -> None:
    given = increment_arguments(3, 260, 5, 2, [0, 7, 20])
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(jit.sampled_increments("tanh", *given))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("module", [jit, blocked])
def test_overflow_and_nan_stay_in_sight(module: object) -> None:
    """A growing relu unit overflows; a NaN of one unit reaches the read-out."""
    one = torch.ones(1, 1, dtype=torch.float64)
    drive = torch.tensor([[[1.0], [torch.nan]]], dtype=torch.float64)
    steps = torch.tensor([0, 2000])
    result = module.sampled_increments("relu", drive, 2 * one, -one, one[None], steps)  # type: ignore[attr-defined]
    assert result[0, 0, :, 0].isfinite().tolist() == [True, False]
    assert bool(result[0, 1].isnan().all())


@pytest.mark.parametrize("name", ["tanh", "hardtanh"])
@pytest.mark.parametrize("grows", [False, True])
def test_jumps_over_the_linear_regime(grows: bool, name: str) -> None:
    """Every step one by one, and from far to far: the power of l that replaces small steps."""
    drive, decay, step, readout, _ = increment_arguments(2, 20, 3, 1, [0])
    if grows:  # out of the linear regime: from 3e-7 at most to where tanh bends
        drive, decay, step = 3e-7 * drive.clamp(-1, 1), torch.full_like(decay, 1.05), torch.full_like(step, -0.05)
    else:
        decay, step = decay.clamp(min=0.5), step.clamp(max=0.5)  # 1e-6 after some 20 steps, 1e-90 after 300
    far = torch.tensor([0, 100, 299])
    every = torch.arange(300)
    for module in (jit, blocked):
        slow = module.sampled_increments(name, drive, decay, step, readout, every)[:, :, far]
        fast = module.sampled_increments(name, drive, decay, step, readout, far)
        # Both round 300 times; the sum over 3 units may cancel digits.
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-300)
    nan = torch.full_like(drive, torch.nan)
    for module in (jit, blocked):
        assert bool(module.sampled_increments(name, nan, decay, step, readout, far).isnan().all())
