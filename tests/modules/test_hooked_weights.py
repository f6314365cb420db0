"""Weights that hooks make before a call, made without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cofm_triton.modules.hooked_weights import remake_weights


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lambda module: nn.utils.weight_norm(module), "weight_g"),
        (lambda module: nn.utils.spectral_norm(module), "weight_orig"),
        (lambda module: nn.utils.prune.l1_unstructured(module, "weight", 0.5), "weight_orig"),
        (lambda module: nn.utils.parametrizations.weight_norm(module), "parametrizations.weight.original0"),
    ],
    ids=["weight_norm", "spectral_norm", "prune", "parametrization"],
)
def test_the_weights_of_a_call(make: Callable[[nn.Module], object], source: str) -> None:
    module = nn.Linear(3, 3).eval()
    make(module)
    with torch.no_grad():
        module.get_parameter(source).mul_(torch.arange(1.0, 4.0)[:, None])
    remake_weights(module)
    made, buffers = module.weight.detach().clone(), [buffer.clone() for buffer in module.buffers()]
    module(torch.zeros(1, 3))
    assert torch.equal(module.weight, made)
    module.train()
    remake_weights(module)
    assert all(torch.equal(now, before) for now, before in zip(module.buffers(), buffers, strict=True))


def test_other_hooks_are_left_alone() -> None:
    module, seen = nn.Linear(1, 1), []
    module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    remake_weights(module)
    assert not seen
