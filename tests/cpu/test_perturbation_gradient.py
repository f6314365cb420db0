"""The compiled gradients of a sweep against autograd through the PyTorch sweep."""

import pytest
import torch
from sweep_cases import autograd_gradients, randn, random_cells

jit = pytest.importorskip("cofm_triton.cpu.jit.perturbation_gradient", reason="numba is not installed")
KINDS = [("hardtanh", "linear"), ("tanh", "linear"), ("relu", "linear"), ("linear", "tanh"), ("linear", "hardtanh")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("shape", [(3, 5, 70, 9, 1, 1), (2, 4, 130, 7, 3, 2), (1, 1, 1, 1, 1, 1)])
def test_gradients(shape: tuple[int, ...], kinds: tuple[str, str], dtype: torch.dtype) -> None:
    """Ragged blocks of sequences, several blocks, several channels."""
    count, units, sequences, steps, inputs, outputs = shape
    cells = random_cells(*kinds, units, inputs, outputs, count)
    x, y = randn(sequences, steps, inputs, seed=6), randn(sequences, steps, outputs, seed=7)
    weights = torch.linspace(0.1, 2, steps, dtype=torch.float64)
    exact = autograd_gradients(cells, x, y, weights)
    errors, by_units, by_offset = jit.sweep_gradients(cells, x.to(dtype), y.to(dtype), weights)
    by_rate, by_bias, by_encoder, by_readout, by_exact_offset = exact[1:]
    expected = torch.cat((by_rate[..., None], by_bias[..., None], by_encoder, by_readout.mT), -1)
    # Forward and adjoint round 8 times a step each; sums over all sequences, of both signs, relative to their size.
    rtol = 32 * steps * torch.finfo(dtype).eps
    torch.testing.assert_close(errors, exact[0], rtol=rtol, atol=0)
    torch.testing.assert_close(by_units, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))
    torch.testing.assert_close(by_offset, by_exact_offset, rtol=rtol, atol=rtol * float(by_exact_offset.abs().max()))


def test_threads_change_no_bit() -> None:
    cells = random_cells("tanh", "linear", 3, 1, 1, 5)
    x, y, weights = randn(90, 6, 1), randn(90, 6, 1, seed=1), torch.ones(6, dtype=torch.float64)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(jit.sweep_gradients(cells, x, y, weights))
    finally:
        torch.set_num_threads(threads)
    # How models are shared out depends on the threads, the numbers of a model do not.
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
