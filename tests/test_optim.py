"""Optimiser groups: the recurrence keeps its memory under weight decay, every other weight decays."""

import copy
import io
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.optim import parameter_groups
from cofm_triton.step.parameterization import PARAMETERIZATIONS


def names(model: nn.Module, **options: Any) -> tuple[list[str], list[str]]:
    """Names of what decays and of what does not."""
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = parameter_groups(model, **options)
    return [of[id(p)] for p in decayed["params"]], [of[id(p)] for p in kept["params"]]


def moved(model: nn.Module, groups: Any) -> dict[str, bool]:
    """Which parameters 200 steps of AdamW with zero gradients move."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimizer.step()
    return {name: not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_memory_survives_weight_decay(parameterization: str) -> None:
    model = RNNFunctional(2, 4, parameterization=parameterization)
    with torch.no_grad():
        model.rnn.rate_l0.add_(0.1)  # "relu" and "inverse" too have rates that decay would move
    slowest = model.stability_margin()
    plain = copy.deepcopy(model)
    assert moved(plain, plain.parameters())["rnn.rate_l0"]
    found = moved(model, parameter_groups(model, weight_decay=0.1))
    assert [name for name, changed in found.items() if changed] == ["rnn.weight_ih_l0", "readout.weight"]
    assert model.stability_margin() == slowest


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_turns_survive_weight_decay(recurrence: str, constrained: bool) -> None:
    layer = StableRNN(2, 4, 2, recurrence=recurrence, constrained=constrained, bidirectional=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    found = moved(layer, parameter_groups(layer, weight_decay=0.1))
    assert {name for name, changed in found.items() if changed} == {
        f"weight_ih_l{k}{direction}" for k in (0, 1) for direction in ("", "_reverse")
    }


class Network(nn.Module):
    """What surrounds layers in practice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([StableRNN(4, 4), StableRNN(4, 4)])
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm, self.wide = nn.LayerNorm(4), nn.LayerNorm((2, 2))
        self.rms, self.batch = nn.RMSNorm((2, 2)), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(()))


def test_a_network() -> None:
    network = Network()
    network.head.weight = network.embedding.weight  # tied
    network.blocks[1].weight_ih_l0.requires_grad_(False)
    decayed, kept = names(network)
    assert decayed == ["embedding.weight", "blocks.0.weight_ih_l0", "conv.weight"]
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert kept == [name for name in trained if name not in decayed]
    for group in parameter_groups(network, weight_decay=np.float32(0.5)):  # type: ignore[arg-type]
        assert group["weight_decay"] in (0.5, 0.0) and type(group["weight_decay"]) is float


def test_a_tied_parameter_that_is_a_rate_somewhere_is_spared() -> None:
    layer, other = StableRNN(4, 4, recurrence="dense"), nn.Linear(4, 4, bias=False)
    other.weight = layer.weight_hh_l0
    for order in ([layer, other], [other, layer]):
        decayed, kept = parameter_groups(nn.Sequential(*order))
        assert [id(p) for p in decayed["params"]] == [id(layer.weight_ih_l0)]
        assert len(kept["params"]) == len({id(p) for p in kept["params"]}) == 3


class Convention(nn.Module):
    """Names a weight as timm's models do, and one that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.other = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
        self.marked = nn.Parameter(torch.ones(2, 3))
        self.marked._no_weight_decay = True  # type: ignore[attr-defined]

    def no_weight_decay(self) -> set[str]:
        return {"position", "absent"}


def test_conventions_of_other_modules() -> None:
    assert names(nn.Sequential(Convention())) == (["0.other"], ["0.position", "0.marked"])


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, lambda model: torch.optim.swa_utils.AveragedModel(model)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    decayed, kept = names(wrap(RNNFunctional(2, 3)))
    assert [name.rpartition(".")[2] for name in (*decayed, *kept)] == [
        "weight_ih_l0", "weight", "bias_l0", "rate_l0", "bias",
    ]  # fmt: skip


def test_parametrised_rates_are_rates() -> None:
    layer = StableRNN(2, 3)
    nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0")
    nn.utils.parametrize.register_parametrization(layer, "rate_l0", nn.Identity())
    decayed, kept = names(layer)
    assert "parametrizations.rate_l0.original" in kept
    assert set(decayed) == {f"parametrizations.weight_ih_l0.original{i}" for i in (0, 1)}


def test_groups_may_be_empty_but_not_both() -> None:
    torch.optim.AdamW(parameter_groups(nn.Embedding(2, 3)), fused=True)
    torch.optim.AdamW(parameter_groups(nn.LayerNorm(3)))
    with pytest.raises(ValueError, match="model must have parameters to train, ReLU has none"):
        parameter_groups(nn.ReLU())
    with pytest.raises(ValueError, match="Linear has none"):
        parameter_groups(nn.Linear(2, 3).requires_grad_(False))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), TypeError, "model must be a torch.nn.Module, got list"),
        ((nn.Linear(1, 1), "0.1"), TypeError, "weight_decay must be a real number, got str"),
        ((nn.Linear(1, 1), -0.1), ValueError, "weight_decay must be >= 0 and finite"),
        ((nn.Linear(1, 1), float("nan")), ValueError, "weight_decay must be >= 0 and finite"),
    ],
)
def test_errors_name_the_argument(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parameter_groups(*arguments)


# --- marks for other helpers ---------------------------------------------------------------------


def from_meta(model: RNNFunctional) -> RNNFunctional:
    return RNNFunctional(2, 3, device="meta").to_empty(device="cpu")


def assigned(model: RNNFunctional) -> RNNFunctional:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    return model


@pytest.mark.parametrize(
    "way",
    [
        lambda model: model,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.double().to("meta"),
        from_meta,
        assigned,
    ],
)
def test_marks_stay_on(way: Callable[[RNNFunctional], RNNFunctional]) -> None:
    model = way(RNNFunctional(2, 3))
    for name, parameter in model.named_parameters():
        is_rate = name == "rnn.rate_l0"
        assert getattr(parameter, "_no_weight_decay", False) == is_rate
        assert getattr(parameter, "_optim", None) == ({"weight_decay": 0.0} if is_rate else None)


def test_names_for_other_helpers() -> None:
    assert RNNFunctional(2, 3, recurrence="dense").no_weight_decay() == {"rnn.rate_l0", "rnn.weight_hh_l0"}
    layer = StableRNN(2, 3, 2, bidirectional=True)
    names = product(("rate", "frequency"), (0, 1), ("", "_reverse"))
    assert layer.no_weight_decay() == {f"{name}_l{k}{direction}" for name, k, direction in names}


def test_marked_parameters_are_saved_and_loaded() -> None:
    layer, file = StableRNN(2, 3), io.BytesIO()
    torch.save(layer.state_dict(keep_vars=True), file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    layer.load_state_dict(loaded)
