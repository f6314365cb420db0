"""What a file would not bring back is refused when it is saved, and the way out that the message names works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.model_file import load_model, save_model
from cofm_triton.modules.round_trip import tied


def model(**options: Any) -> RNNFunctional:
    return RNNFunctional(3, 3, 3, **options)


def change(act: Callable[[RNNFunctional], object], **options: Any) -> RNNFunctional:
    changed = model(**options)
    act(changed)
    return changed


def tie_layers(m: RNNFunctional) -> None:
    for name in ("weight_ih", "bias", "rate"):
        setattr(m.rnn, name + "_l1", getattr(m.rnn, name + "_l0"))


MADE_BY_TOOLS: dict[str, Callable[[RNNFunctional], object]] = {
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.readout),
    "weight_norm": lambda m: parametrizations.weight_norm(m.rnn, "weight_ih_l0"),
    "old weight_norm": lambda m: nn.utils.weight_norm(m.rnn, "weight_ih_l0"),
    "old spectral_norm": lambda m: nn.utils.spectral_norm(m.readout),
    "prune": lambda m: prune.l1_unstructured(m.readout, "weight", 0.5),
    "pruned rates": lambda m: prune.l1_unstructured(m.rnn, "rate_l0", 0.5),
    "parametrised rates": lambda m: parametrize.register_parametrization(m.rnn, "rate_l0", nn.Identity()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("tool", MADE_BY_TOOLS)
def test_weights_that_tools_make(tmp_path: Path, tool: str) -> None:
    changed = change(MADE_BY_TOOLS[tool])
    with pytest.raises(ValueError, match=r"model holds .*: call .* before it is saved") as raised:
        save_model(tmp_path / "m", changed)
    assert not (tmp_path / "m").exists()
    call = str(raised.value).split(": call ")[1].removesuffix(" before it is saved")
    eval(call, {"torch": torch, "model": changed})
    save_model(tmp_path / "m", changed)
    x = torch.randn(2, 4, 3)
    assert torch.equal(load_model(tmp_path / "m")(x), changed(x))


class Louder(nn.Linear):
    """Has the weights of a linear layer and does something else."""


REFUSED: dict[str, tuple[RNNFunctional, str]] = {
    "buffer": (change(lambda m: m.register_buffer("b", torch.ones(1))), "model holds b, which"),
    "hidden buffer": (
        change(lambda m: m.rnn.register_buffer("b", torch.ones(1), persistent=False)),
        "model holds rnn.b in its named_buffers",
    ),
    "parameter": (change(lambda m: m.register_parameter("p", nn.Parameter(torch.ones(1)))), "model holds p, which"),
    "no parameter": (change(lambda m: setattr(m.readout, "bias", None)), "model lacks readout.bias"),
    "a weight that is none": (
        change(lambda m: (delattr(m.readout, "bias"), m.readout.register_buffer("bias", torch.ones(3)))),
        "readout.bias in its named_",
    ),
    "submodule": (change(lambda m: m.rnn.add_module("act", nn.Tanh())), "model has Tanh as rnn.act, its options make"),
    "read-out": (change(lambda m: setattr(m, "readout", nn.Sequential(nn.Linear(3, 3)))), "model.readout must be a Li"),
    "its subclass": (change(lambda m: setattr(m, "readout", Louder(3, 3))), "model.readout must be a Linear"),
    "recurrence": (change(lambda m: setattr(m, "rnn", nn.GRU(3, 3))), "model.rnn must be a StableRNN"),
    "forward": (change(lambda m: setattr(m.readout, "forward", abs)), "model has another forward in readout"),
    "tied layers": (change(tie_layers, num_layers=2), "model ties rnn.bias_l0 and rnn.bias_l1|rnn.*_l0 and rnn.*_l1"),
    "tied biases": (change(lambda m: setattr(m.readout, "bias", m.rnn.bias_l0)), "model ties readout.bias and rnn.b"),
    "tied numbers": (
        change(lambda m: setattr(m.readout, "weight", nn.Parameter(m.rnn.weight_ih_l0.detach().T))),
        "model ties readout.weight and rnn.weight_ih_l0",
    ),
    "sparse": (
        change(lambda m: setattr(m.readout, "weight", nn.Parameter(torch.eye(3).to_sparse()))),
        "readout.weight as a Tensor of torch.float32, torch.sparse_coo",
    ),
    "integers": (
        change(lambda m: setattr(m.readout, "weight", nn.Parameter(torch.ones(3, 3).int(), requires_grad=False))),
        "readout.weight as a Tensor of torch.int32",
    ),
    "meta": (model(device="meta"), "model has rnn.weight_ih_l0 on the meta device"),
    "shape": (
        change(lambda m: setattr(m.readout, "bias", nn.Parameter(torch.ones(1)))),
        r"model has readout.bias of shape \(1,\), its options make \(3,\)",
    ),
    "more layers": (change(lambda m: setattr(m.rnn, "num_layers", 2)), "model lacks rnn.bias_l1"),
    "no option": (change(lambda m: setattr(m.rnn, "dt", -1)), "dt must be positive"),
    "none of its kind": (change(lambda m: setattr(m.rnn, "bias", 1)), "no options: bias should be of type bool"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_file_brings_back(tmp_path: Path, kind: str) -> None:
    changed, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "m", changed)
    assert not (tmp_path / "m").exists()


def in_one_vector(m: RNNFunctional) -> None:
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(m.parameters()).detach(), m.parameters())


def rates_in_float32(m: RNNFunctional) -> None:
    m.bfloat16()
    m.rnn.rate_l0 = nn.Parameter(m.rnn.rate_l0.detach().float())


@pytest.mark.parametrize(
    "changed",
    [
        change(lambda m: None, recurrence="orthogonal", num_layers=2, bidirectional=True),
        change(lambda m: None, recurrence="orthogonal", constrained=False),
        change(lambda m: None, recurrence="dense", num_layers=2, bias=False),
        change(in_one_vector),
        change(rates_in_float32),
        change(lambda m: setattr(m.rnn, "weight_ih_l0", nn.Parameter(torch.randn(3, 3).T))),
        change(lambda m: setattr(m.readout, "weight", nn.Parameter(torch.ones(3, 1).expand(3, 3)))),
        change(lambda m: setattr(m, "readout", nn.Linear(3, 7))),
        change(lambda m: setattr(m.rnn, "dt", torch.tensor(0.5))),
        change(lambda m: m.register_forward_hook(lambda *_: None)),
    ],
)
def test_what_a_file_brings_back(tmp_path: Path, changed: RNNFunctional) -> None:
    save_model(tmp_path / "m", changed)
    state, found = changed.state_dict(), load_model(tmp_path / "m").state_dict()
    assert state.keys() == found.keys()
    for name, value in found.items():
        assert value.dtype == state[name].dtype and torch.equal(value, state[name])


def test_ties() -> None:
    x = torch.zeros(4, 4)
    views = {"rows": x[:2], "others": x[2:], "corner": x[1:3, 1:3], "apart": x.clone(), "empty": x[:0]}
    assert {frozenset(pair) for pair in tied(views)} == {frozenset(("rows", "corner")), frozenset(("corner", "others"))}
