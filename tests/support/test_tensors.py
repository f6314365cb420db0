"""What is no dense tensor is refused by name, by whatever takes tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import cofm_triton as cofm

ONES = torch.ones(2, 3, 4)
KINDS: dict[str, tuple[Any, str]] = {
    "sparse": (ONES.to_sparse(), "got layout torch.sparse_coo: use to_dense()"),
    "rows": (ONES.flatten(1).to_sparse_csr(), "got layout torch.sparse_csr: use to_dense()"),
    "mkldnn": (ONES.to_mkldnn(), "got layout torch._mkldnn: use to_dense()"),
    "nested": (torch.nested.nested_tensor([ONES[0], ONES[1, :2]]), "got a nested one: pad it, or pack its sequences"),
    "jagged": (torch.nested.nested_tensor([ONES[0], ONES[1, :2]], layout=torch.jagged), "got a nested one: pad it"),
}
CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "linear_scan": ("x", lambda x: cofm.linear_scan(x, torch.rand(4))),
    "linear_scan, decay": ("decay", lambda x: cofm.linear_scan(ONES, x)),
    "gated_rnn": ("rate_logit", lambda x: cofm.gated_rnn(ONES, torch.rand(4), x, gates="s6")),
    "rnn_scan": ("x", lambda x: cofm.rnn_scan(x, torch.rand(4))),
    "dense_rnn": ("x", lambda x: cofm.dense_rnn(x, torch.eye(4))),
    "StableRNN": ("input", lambda x: cofm.StableRNN(4, 4)(x)),
    "step": ("x", lambda x: cofm.StableRNN(4, 4).prepared().step(x)),
    "RNNFunctional": ("input", lambda x: cofm.RNNFunctional(4, 4)(x)),
    "perturbation_error": ("inputs", lambda x: cofm.perturbation_error(cofm.RNNFunctional(4, 4), x, ONES)),
    "temporally_weighted_mse": ("y_hat", lambda x: cofm.temporally_weighted_mse(x, ONES)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_dense_is_named(call: str, kind: str) -> None:
    (name, function), (value, reason) = CALLS[call], KINDS[kind]
    with pytest.raises(TypeError, match=re.escape(f"{name} must be a dense tensor, {reason}")):
        function(value)
