"""A right call of every public function, in a few small numbers, and one wrong argument in it.

Scans are drawn more widely, see `fuzz_cases.py`; functions of `distributed` take several processes, and
tests/distributed/ tries theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import cofm_triton as cofm


@dataclass(frozen=True)
class Call:
    """What is called, with which arguments.

    Attributes:
        function: takes them by name.
        make: the arguments, made anew for every call.
        then: what is done with the result, for classes.
    """

    function: Callable[..., Any]
    make: Callable[[], Mapping[str, Any]]
    then: Callable[[Any], Any] = field(default=lambda result: result)


def numbers(*shape: int) -> Tensor:
    """Of float64, always the same."""
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


def model(**options: Any) -> nn.Module:
    """Small, always the same."""
    torch.manual_seed(0)
    return cofm.RNNFunctional(1, 2, dtype=torch.float64, **options)


def _scan(**more: Any) -> dict[str, Any]:
    return dict(x=numbers(1, 4, 2), h0=numbers(1, 2), backend="torch", **more)


def _layer(kind: type[nn.Module], **sizes: int) -> Call:
    options: dict[str, Any] = dict(nonlinearity="tanh", bias=True, parameterization="exp", recurrence="diagonal")
    options.update(dt=1.0, discretization="exact", backend="torch", dtype=torch.float64, oscillating=False)
    return Call(kind, lambda: {**sizes, **options}, lambda layer: layer(numbers(1, 3, 2)))


CALLS: dict[str, Call] = {
    "linear_scan": Call(cofm.linear_scan, lambda: _scan(decay=numbers(2), reverse=False)),
    "rnn_scan": Call(cofm.rnn_scan, lambda: _scan(rate=numbers(2).abs(), dt=0.5, nonlinearity="tanh", solver="auto")),
    "dense_rnn": Call(cofm.dense_rnn, lambda: _scan(weight=numbers(2, 2), dt=0.5, nonlinearity="tanh")),
    "gated_rnn": Call(
        cofm.gated_rnn,
        lambda: _scan(
            rate=numbers(2).abs(), rate_logit=numbers(1, 4, 2), input_logit=numbers(1, 4, 2), gates="rg_lru"
        ),
    ),
    "StableRNN": _layer(cofm.StableRNN, input_size=2, hidden_size=2, num_layers=1),
    "RNNFunctional": _layer(cofm.RNNFunctional, input_size=2, hidden_size=2, output_size=1),
    "ResidualBlock": _layer(cofm.ResidualBlock, size=2, hidden_size=2),
    "ResidualStack": _layer(cofm.ResidualStack, input_size=2, size=2, num_layers=1),
    "parameterization": Call(cofm.parameterization, lambda: dict(name="exp")),
    "parameter_groups": Call(cofm.parameter_groups, lambda: dict(model=model(), weight_decay=0.1)),
    "temporal_weights": Call(cofm.temporal_weights, lambda: dict(length=3, dtype=torch.float32)),
    "temporally_weighted_mse": Call(
        cofm.temporally_weighted_mse, lambda: dict(y_hat=numbers(1, 3, 1), y=numbers(1, 3, 1))
    ),
    "memory_function": Call(
        cofm.memory_function, lambda: dict(model=model(), length=8, radius=1.0, norm="inf", samples=4, dt=1.0)
    ),
    "memory_sweep": Call(
        cofm.memory_sweep, lambda: dict(model=model(), length=4, radii=[0.0, 0.1], directions=1, seed=0, radius=1.0)
    ),
    "perturbation_error": Call(
        cofm.perturbation_error,
        lambda: dict(
            models=model(), inputs=numbers(2, 4, 1), targets=numbers(2, 4, 1), radii=[0.0, 0.1], directions=1, seed=0,
            search="random", ball="inf", metric="twe",
        ),
    ),
    "stability_verdict": Call(
        cofm.stability_verdict,
        lambda: dict(target="exp", parameterization="exp", horizons=(4, 8, 16), dt=1.0, threshold=0.1),
    ),
    "contraction_bound": Call(cofm.contraction_bound, lambda: dict(layer=model(), radius=1.0)),
    "lyapunov_exponent": Call(
        cofm.lyapunov_exponent, lambda: dict(model=cofm.StableRNN(1, 2, batch_first=True), inputs=torch.ones(1, 8, 1))
    ),
    "warm_up_steps": Call(cofm.warm_up_steps, lambda: dict(exponent=-0.5, dtype=torch.float32)),
    "plot_memory": Call(
        cofm.plot_memory, lambda: dict(memories={"a": cofm.memory_function(model(), 4)}, path_or_axes="/dev/null.png")
    ),
}  # fmt: skip
"""By public name. What is no function, and what is only ever returned, has none."""
NOT_CALLED = {
    "PARAMETERIZATIONS", "LyapunovExponent", "MemoryFunction", "MemorySweep", "PerturbationCurve",
    "SlowBackendWarning", "StabilityVerdict", "__version__", "targets",
}  # fmt: skip

WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a string": lambda: "x",
    "a list": lambda: [1.5, "x"],
    "nothing in a list": list,
    "a dict": lambda: {"a": 1},
    "an object": object,
    "true": lambda: True,
    "nothing": lambda: 0,
    "negative": lambda: -1,
    "a fraction": lambda: 0.25,
    "not a number": lambda: float("nan"),
    "infinite": lambda: float("inf"),
    "a module": lambda: nn.Linear(1, 1),
    "a dtype": lambda: torch.int32,
    "a number in a tensor": lambda: torch.tensor(0.5),
    "integers": lambda: torch.ones(1, 4, 2, dtype=torch.int64),
    "complex": lambda: torch.ones(1, 4, 2, dtype=torch.complex64),
    "an empty tensor": lambda: torch.empty(0, dtype=torch.float64),
    "another shape": lambda: numbers(1, 3, 5),
    "other axes": lambda: numbers(2),
    "infinite numbers": lambda: torch.full((1, 4, 2), float("inf"), dtype=torch.float64),
    "sparse": lambda: numbers(1, 4, 2).to_sparse(),
    "sparse in rows": lambda: numbers(4, 2).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([numbers(4, 2), numbers(3, 2)], layout=torch.jagged),
    "of oneDNN": lambda: numbers(1, 4, 2).float().to_mkldnn(),
    "on another device": lambda: numbers(1, 4, 2).to("meta"),
}
# Functions of one's own, whose errors are theirs.
MAY_BE_CALLED = {"target", "metric"}


def wrong_calls(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every argument of a function with everything wrong: its name, what is wrong, and the arguments."""
    for argument in CALLS[name].make():
        for how, make in WRONG.items():
            if not (argument in MAY_BE_CALLED and how == "a module"):
                yield argument, how, {**CALLS[name].make(), argument: make()}
