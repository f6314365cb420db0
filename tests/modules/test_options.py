"""Options in the state_dict: they come back whole, others are refused by name, and every tool takes the entry."""

import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.modules.options import OPTIONS, decode, encode

KEY = "rnn._extra_state"
OTHERS: list[dict[str, Any]] = [
    {"parameterization": "direct"},
    {"recurrence": "ssm"},
    {"nonlinearity": "tanh"},
    {"dt": 0.1},
    {"discretization": "euler"},
    {"constrained": False},
    {"parameterization": "lru", "normalize_input": "paper"},
    {"normalize_input": True},
    {"oscillating": True},
    {"learnable_dt": True},
    {"max_time_scale": 50.0, "oscillating": True, "nonlinearity": "linear"},
    {"gated": "mingru", "recurrence": "ssm", "normalize_input": True},
]


def model(**options: Any) -> RNNFunctional:
    return RNNFunctional(2, 3, **options)


def entry(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def test_every_option_is_tried() -> None:
    assert {name for options in OTHERS for name in options} == set(OPTIONS)


@pytest.mark.parametrize("dt", [0.1, 1 / 3, 1e-300, np.nextafter(1, 2)])
def test_options_come_back_to_the_bit(dt: float) -> None:
    state = model(dt=dt).rnn.get_extra_state()
    assert decode(state) == {**OPTIONS, "dt": dt}
    assert (state.dtype, tuple(state.shape), state.device.type) == (torch.uint8, (512,), "cpu")
    text = bytes(state.tolist()).decode().rstrip(" ")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_long_options_take_more_blocks() -> None:
    assert encode({"dt": "1" * 512}).shape == (1024,)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_other_options_are_refused_by_name(options: dict[str, Any], strict: bool) -> None:
    ours, theirs = model(), model(**options)
    before = ours.rnn.rate_l0.clone()
    with pytest.raises(RuntimeError) as raised:
        ours.load_state_dict(theirs.state_dict(), strict=strict)
    for name, value in options.items():
        assert f"{name} was {value!r} and is {OPTIONS[name]!r}" in str(raised.value)
    assert torch.equal(ours.rnn.rate_l0, before)
    theirs.load_state_dict(theirs.state_dict(), strict=strict)


def test_the_way_round_a_refusal_works() -> None:
    fine, state = model(dt=0.5), model().state_dict()
    with pytest.raises(RuntimeError, match=f"or remove '{KEY}' from the state_dict"):
        fine.load_state_dict(state)
    del state[KEY]
    with pytest.warns(UserWarning, match="dt=0.5"):
        fine.load_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_without_the_entry_loads_with_one_warning(strict: bool) -> None:
    stack = nn.ModuleList([model(), nn.Sequential(StableRNN(2, 3))])
    old = {name: value for name, value in stack.state_dict().items() if "_extra_state" not in name}
    for _ in range(2):
        with pytest.warns(UserWarning, match="does not say under which options") as record:
            found = stack.load_state_dict(old, strict=strict)
        assert len(record) == 1 and record[0].filename == __file__
        assert not found.missing_keys and not found.unexpected_keys


def test_what_does_not_touch_the_layer_needs_no_entry() -> None:
    ours = model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.load_state_dict({"readout.bias": torch.ones(1)}, strict=False)
    assert ours.readout.bias.item() == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "it must be a tensor"),
        ({"dt": 1.0}, "got dict"),
        (torch.zeros(2, 2), r"got torch.float32 \(2, 2\)"),
        (torch.zeros(4, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(0, dtype=torch.uint8), "Expecting value"),
        (torch.full((4,), torch.nan), "cannot convert float NaN"),
        (entry("[1]"), "TypeError"),
        (entry('{"format": 1}'), "KeyError: 'options'"),
        (entry('{"format": 1, "options": 3}'), "TypeError"),
        (entry('{"format": 1, "opt'), "Unterminated string"),
        (entry('{"format": 2, "options": {}}'), "has format 2"),
    ],
)
def test_damaged_entries(bad: Any, reason: str) -> None:
    ours = model()
    with pytest.raises(ValueError, match=reason):
        ours.rnn.set_extra_state(bad)
    with pytest.raises(RuntimeError, match=reason):
        ours.load_state_dict({**ours.state_dict(), KEY: bad}, strict=False)


def test_options_of_a_later_version_are_named() -> None:
    state = encode({**OPTIONS, "squared": True})
    with pytest.raises(ValueError, match="squared was True and is None here"):
        model().rnn.set_extra_state(state)


def test_an_option_that_the_entry_lacks_has_its_value_of_then() -> None:
    older = encode({name: value for name, value in OPTIONS.items() if name != "normalize_input"})
    model().rnn.set_extra_state(older)
    with pytest.raises(ValueError, match="normalize_input was False and is True here"):
        model(normalize_input=True).rnn.set_extra_state(older)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("recurrence", ["diagonal", "dense"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_weights_of_other_layers_are_explained(kind: str, recurrence: str, strict: bool) -> None:
    layer = nn.ModuleDict({"rnn": StableRNN(2, 3, recurrence=recurrence)})
    for options in ({}, {"bias": False}, {"num_layers": 2, "bidirectional": True}):
        state = nn.ModuleDict({"rnn": getattr(nn, kind)(2, 3, **options)}).state_dict()
        with pytest.raises(RuntimeError, match=rf"weights of a torch\.nn\.{kind} cannot be loaded into a StableRNN"):
            layer.load_state_dict(state, strict=strict)


def through_torch(state: dict[str, Any], path: Path) -> dict[str, Any]:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def through_safetensors(state: dict[str, Any], path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file, save_file

    save_file(state, path)
    return load_file(path)


def through_distributed(state: dict[str, Any], path: Path) -> dict[str, Any]:
    import torch.distributed.checkpoint as checkpoint

    checkpoint.save(state, checkpoint_id=path, no_dist=True)  # type: ignore[attr-defined]
    into = {name: torch.zeros_like(value) for name, value in state.items()}
    checkpoint.load(into, checkpoint_id=path, no_dist=True)  # type: ignore[attr-defined]
    return into


def through_memory(state: dict[str, Any], path: Path) -> dict[str, Any]:
    return pickle.loads(pickle.dumps(copy.deepcopy(state)))


def cast(state: dict[str, Any], path: Path) -> dict[str, Any]:
    return {name: value.bfloat16() for name, value in state.items()}


def averaged(state: dict[str, Any], path: Path) -> dict[str, Any]:
    return {name: 0.999 * value + 0.001 * value for name, value in state.items()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    "way", [through_torch, through_safetensors, through_distributed, through_memory, cast, averaged]
)
def test_the_entry_comes_through(way: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    state = way(model(dt=0.1).state_dict(), tmp_path / "state")
    model(dt=0.1).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"dt was 0\.1 and is 1\.0 here"):
        model().load_state_dict(state)


def test_safetensors_saves_and_loads_models(tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    save_model(model(dt=0.1), tmp_path / "m")  # type: ignore[arg-type]
    copy_of_it = model(dt=0.1)
    assert load_model(copy_of_it, tmp_path / "m") == (set(), [])  # type: ignore[comparison-overlap]
    with pytest.raises(RuntimeError, match="dt was"):
        load_model(model(), tmp_path / "m")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints_of_other_options_are_refused_by_name(tmp_path: Path) -> None:
    """They are read into a state_dict of the other model, whose entry must have room."""
    import torch.distributed.checkpoint as checkpoint

    checkpoint.save(model(dt=1 / 3, discretization="euler").state_dict(), checkpoint_id=tmp_path, no_dist=True)  # type: ignore[attr-defined]
    other = model()
    into = other.state_dict()
    checkpoint.load(into, checkpoint_id=tmp_path, no_dist=True)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"dt was 0\.3333333333333333 and is 1\.0, discretization was 'euler'"):
        other.load_state_dict(into)


def test_calls_with_a_state_dict_and_stacks_of_models() -> None:
    ours, x = model(), torch.randn(2, 5, 2)
    assert torch.equal(torch.func.functional_call(ours, model_state := ours.state_dict(), (x,)), ours(x))
    assert not hasattr(ours.rnn, "_extra_state") and KEY in model_state
    parameters, buffers = torch.func.stack_module_state([ours, copy.deepcopy(ours)])
    assert parameters["rnn.rate_l0"].shape == (2, 3) and not buffers


@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaged_models(use_buffers: bool) -> None:
    ours = model()
    average = torch.optim.swa_utils.AveragedModel(ours, use_buffers=use_buffers)
    average.update_parameters(ours)
    again = torch.optim.swa_utils.AveragedModel(model(), use_buffers=use_buffers)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.module.rnn.rate_l0, ours.rnn.rate_l0)  # type: ignore[arg-type, union-attr]
    with pytest.raises(RuntimeError, match=r"module\.rnn\._extra_state"):
        torch.optim.swa_utils.AveragedModel(model(dt=0.5)).load_state_dict(average.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    state = wrap(model()).state_dict()
    assert sum(name.endswith("_extra_state") for name in state) == 1
    wrap(model()).load_state_dict(state)
    with pytest.raises(RuntimeError, match="dt was"):
        wrap(model(dt=0.5)).load_state_dict(state)


def test_meta_models_take_weights_and_give_none() -> None:
    empty, x = model(device="meta"), torch.randn(2, 5, 2)
    assert empty.state_dict()[KEY].device.type == "cpu"
    full = model()
    empty.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(empty(x), full(x))
    full.load_state_dict({name: value.to("meta") for name, value in full.state_dict().items()}, assign=True)
    assert full.rnn.rate_l0.is_meta


def test_whole_modules_keep_their_options() -> None:
    buffer = io.BytesIO()
    torch.save(model(dt=0.1), buffer)
    buffer.seek(0)
    for other in (torch.load(buffer, weights_only=False), copy.deepcopy(model(dt=0.1))):
        assert decode(other.rnn.get_extra_state()) == {**OPTIONS, "dt": 0.1}
