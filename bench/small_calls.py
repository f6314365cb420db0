"""What a call costs where the work takes a microsecond: scans of one short sequence, and steps of streams, on the CPU.

    python bench/small_calls.py [--rounds 200]

Times are the smallest of many rounds, in microseconds, of one thread. The floor is an `autograd.Function` that makes
room for its results and does nothing. `both` is a forward and a backward pass that leaves gradients in `.grad`. JAX,
where it is installed, runs `lax.scan`, compiled, and its gradients.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.evidence import machine
from cofm_triton.step.gates import GATES

SHAPE, WIDTHS = (1, 256, 32), (32, 256)
CALLS = 50  # of a round: short ones fit between what else the machine does
LAYERS: dict[str, dict[str, Any]] = {
    "ssm, linear": dict(nonlinearity="linear", oscillating=False),
    "ssm, pairs, tanh": dict(nonlinearity="tanh"),
    "diagonal, tanh": dict(nonlinearity="tanh", recurrence="diagonal", oscillating=False),
    "diagonal, pairs, tanh": dict(nonlinearity="tanh", recurrence="diagonal"),
    "dense, hardtanh": dict(nonlinearity="hardtanh", recurrence="dense"),
    **{f"{gates}, pairs": dict(nonlinearity="linear", gated=gates) for gates in GATES},
}

Call = Callable[[], object]
Scan = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.empty_like(x)
        ctx.save_for_backward(a, h)
        return h, x.new_empty(x.shape[0], x.shape[2])

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        return torch.empty_like(h), torch.empty_like(a)


def microseconds(call: Call, rounds: int) -> float:
    """The smallest mean over the calls of a round."""
    for _ in range(3):
        call()
    gc.collect()
    means = []
    for _ in range(rounds):
        begin = perf_counter()
        for _ in range(CALLS):
            call()
        means.append((perf_counter() - begin) / CALLS)
    return 1e6 * min(means)


def scans() -> Iterator[tuple[str, Scan]]:
    """The floor, and ours."""
    yield "floor", _Floor.apply
    yield "linear_scan", cofm.linear_scan
    for name in ("linear", "hardtanh", "relu", "tanh"):
        yield f"rnn_scan, {name}", partial(cofm.rnn_scan, dt=0.5, nonlinearity=name)


def passes(scan: Scan) -> tuple[Call, Call]:
    """A forward pass without gradients, and both passes."""
    x, grad, a = torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(SHAPE[2])
    leaves = [tensor.clone().requires_grad_() for tensor in (x, a)]

    def forward() -> None:
        with torch.no_grad():
            scan(x, a)

    def both() -> None:
        torch.autograd.backward(scan(leaves[0], leaves[1])[0], grad)
        for leaf in leaves:
            leaf.grad = None

    return forward, both


def jax_passes() -> tuple[Call, Call]:
    """The same by `lax.scan`."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.PRNGKey(0))
    x, a = jax.random.normal(keys[0], SHAPE), jax.random.uniform(keys[1], SHAPE[2:])

    def scan(x: Any, a: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            h = a * h + now
            return h, h

        return jax.lax.scan(step, jnp.zeros(SHAPE[2:]), x[0])[1]

    forward, gradients = jax.jit(scan), jax.jit(jax.grad(lambda x, a: scan(x, a).sum(), (0, 1)))
    return lambda: forward(x, a).block_until_ready(), lambda: jax.block_until_ready(gradients(x, a))


def call_rows(rounds: int) -> Iterator[str]:
    """The table of scans."""
    yield f"| {' x '.join(map(str, SHAPE))}, float32 | forward | both |"
    yield "| --- | --- | --- |"
    contestants: list[tuple[str, tuple[Call, Call]]] = [(name, passes(scan)) for name, scan in scans()]
    if find_spec("jax") is not None:
        contestants.append(("JAX, lax.scan compiled", jax_passes()))
    for name, calls in contestants:
        times = [f"{microseconds(call, rounds):.1f}" for call in calls]
        yield f"| {name} | {' | '.join(times)} |"


def step_rows(rounds: int, widths: Sequence[int]) -> Iterator[str]:
    """The table of steps."""
    heads = [f"{what}, {width}" for width in widths for what in ("prepared", "own step")]
    yield f"| step of one sequence, in those of nn.RNNCell | {' | '.join(heads)} |"
    yield f"| --- |{' --- |' * len(heads)}"
    cells, names = {}, ["nn.RNNCell, us", *LAYERS]
    rows: dict[str, list[str]] = {name: [] for name in names}
    for width in widths:
        x, h = torch.randn(1, width), torch.randn(1, width)
        cell = nn.RNNCell(width, width)
        cells[width] = microseconds(partial(cell, x, h), rounds)
        rows[names[0]] += [f"{cells[width]:.1f}", ""]
        for name, options in LAYERS.items():
            layer = cofm.StableRNN(width, width, **options)
            hx = h.unsqueeze(0)
            for step in (layer.prepared().step, layer.step):
                time = microseconds(partial(step, x, hx), rounds)
                rows[name].append(f"{time / cells[width]:.2f}")
    for name in names:
        yield f"| {name} | {' | '.join(rows[name])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds of each call (default: 200)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of layers that step (default: 32 256)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = machine.load()
    print("\n".join(call_rows(options.rounds)) + "\n")
    with torch.no_grad():
        print("\n".join(step_rows(options.rounds, options.widths)) + "\n")
    print(machine.caption(machine.describe(torch.device("cpu"), load)))


if __name__ == "__main__":
    main()
