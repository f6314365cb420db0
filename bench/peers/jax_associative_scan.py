"""JAX, compiled: `lax.associative_scan` for linear recurrences, `lax.scan` for the nonlinear one.

A time-invariant decay is broadcast inside the compiled function, where XLA may fuse it. The state of the associative
scan is in the tensors' dtype, as its combination requires.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.dlpack import from_dlpack

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem


def _linear_scan(x: Any, decay: Any) -> Any:
    import jax

    def combine(early: tuple[Any, Any], late: tuple[Any, Any]) -> tuple[Any, Any]:
        return late[0] * early[0], late[0] * early[1] + late[1]

    gates = jax.numpy.broadcast_to(decay, x.shape).astype(x.dtype)
    return jax.lax.associative_scan(combine, (gates, x), axis=1)[1]


def _rnn_scan(x: Any, rate: Any) -> Any:
    import jax

    def step(h: Any, row: Any) -> tuple[Any, Any]:
        h = h + jax.numpy.clip(row - rate * h, -1, 1).astype(h.dtype)
        return h, h

    rows = x.swapaxes(0, 1)
    return jax.lax.scan(step, jax.numpy.zeros_like(rows[0], dtype=rate.dtype), rows)[1].swapaxes(0, 1)


def _contestant(problem: Problem, function: Callable[[Any, Any], Any], parameter: str) -> Contestant:
    import jax

    x, recurrent, grad = (_to_jax(t) for t in (problem.x, problem.given[parameter], problem.grad))

    def forward_backward(x: Any, recurrent: Any, grad: Any) -> Any:
        h, pull = jax.vjp(function, x, recurrent)
        return *pull(grad), h  # without h, XLA could leave parts of the forward pass out

    one, both = jax.jit(function), jax.jit(forward_backward)
    return Contestant(
        lambda: jax.block_until_ready(one(x, recurrent)),
        lambda: jax.block_until_ready(both(x, recurrent, grad)),
        _to_torch,
    )


def _to_jax(tensor: Tensor) -> Any:
    import jax

    return jax.dlpack.from_dlpack(tensor)


def _to_torch(array: Any) -> Tensor:
    return from_dlpack(array).clone()


PEER = Peer(
    name="JAX",
    prepare={
        "linear_scan": lambda problem: _contestant(problem, _linear_scan, "decay"),
        "gated_scan": lambda problem: _contestant(problem, _linear_scan, "decay"),
        "rnn_scan": lambda problem: _contestant(problem, _rnn_scan, "rate"),
    },
    modules=("jax",),
    install="jax",
)
