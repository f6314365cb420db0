import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.model_file import load_model, read_notes, save_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nonlinearity": "linear", "parameterization": "direct", "discretization": "euler"},
        {"recurrence": "ssm", "nonlinearity": "tanh", "dt": 0.25, "bias": False},
        {"num_layers": 2, "parameterization": "inverse"},
        {"max_time_scale": 50.0},
    ],
)
def test_round_trip_restores_options_and_bits(tmp_path: Path, options: dict[str, Any], dtype: torch.dtype) -> None:
    model = RNNFunctional(2, 3, 4, dtype=dtype, **options)
    path = tmp_path / "model.safetensors"
    save_model(path, model, {"target": "exp"})
    copy = load_model(path)
    assert repr(copy) == repr(model)
    state = model.state_dict()
    assert copy.state_dict().keys() == state.keys()
    for name, value in copy.state_dict().items():
        assert value.dtype == (torch.uint8 if name.endswith("_extra_state") else dtype)
        assert torch.equal(value, state[name])
    assert read_notes(path) == {"target": "exp"}


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = RNNFunctional(1, 5)
    for name in ("a", "b"):
        save_model(tmp_path / name, model, {"x": 1, "y": [2, 3]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_refuses_other_models_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model must be an RNNFunctional, got Linear"):
        save_model(tmp_path / "m", torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    path = tmp_path / "text"
    path.write_text("not a model")
    with pytest.raises(ValueError, match="path must be a cofm model file"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent")


def test_fresh_weights_of_a_loaded_model_are_spread_as_before(tmp_path: Path) -> None:
    model = RNNFunctional(1, 4, max_time_scale=50.0)
    save_model(tmp_path / "m", model)
    copy = load_model(tmp_path / "m")
    copy.rnn.reset_parameters()
    assert torch.equal(copy.rnn.rate_l0, model.rnn.rate_l0)


def header(**changes: Any) -> str:
    options = {"input_size": 1, "hidden_size": 3, "output_size": 1, "options": {}, "notes": {}}
    return json.dumps(options | changes)


@pytest.mark.parametrize("read", [load_model, read_notes])
@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", header(notes=[1])])
def test_a_header_of_others_is_no_model_file(tmp_path: Path, read: Callable[[Path], Any], text: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(RNNFunctional(1, 3).state_dict(), path, metadata={"cofm": text})
    with pytest.raises(ValueError, match=r"path must be a cofm model file, '.*m\.safetensors' is none"):
        read(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"notes": {}, "options": {}}', "no 'input_size'"),
        (header(options={"colour": "red"}), "unexpected keyword argument 'colour'"),
        (header(options=[1]), "must be a mapping"),
        (header(version="9.0"), "cofm_triton 9.0 wrote it, this is "),
        (header(version=None), "cofm_triton None wrote it, this is "),
        (header(options={"dt": -1.0}), "dt must be "),
        (header(hidden_size=4), "size mismatch for rnn.weight_ih_l0"),
        (header(options={"bias": False}), "Unexpected key"),
    ],
)
def test_a_header_that_does_not_fit_is_no_model_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(RNNFunctional(1, 3).state_dict(), path, metadata={"cofm": text})
    with pytest.raises(ValueError, match=r"path must be a cofm model file, '.*m\.safetensors' is none") as raised:
        load_model(path)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"num_layers": 10**7}},
        {"options": {"num_layers": 10**7, "recurrence": "dense", "bidirectional": True}},
        {"options": {"recurrence": "dense"}, "hidden_size": 10**5},
        {"hidden_size": 10**12},
        {"input_size": 10**12},
        {"output_size": 10**12},
    ],
)
def test_sizes_are_compared_with_the_tensors_before_a_model_is_built(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "m.safetensors"
    save_file(RNNFunctional(1, 3).state_dict(), path, metadata={"cofm": header(**changes)})
    with pytest.raises(ValueError, match=r"its header asks for at least \d+ numbers, it holds 525"):
        load_model(path)


def test_saving_and_loading_draw_no_random_numbers(tmp_path: Path) -> None:
    model = RNNFunctional(1, 3, recurrence="orthogonal")
    before = torch.random.get_rng_state()
    save_model(tmp_path / "m", model)
    load_model(tmp_path / "m")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.filterwarnings("error")
def test_files_of_earlier_versions_have_no_options_beside_the_weights(tmp_path: Path) -> None:
    model = RNNFunctional(1, 3, dt=0.5)
    state = {name: value for name, value in model.state_dict().items() if "_extra_state" not in name}
    save_file(state, tmp_path / "m", metadata={"cofm": header(options={"dt": 0.5})})
    assert torch.equal(load_model(tmp_path / "m").rnn.get_extra_state(), model.rnn.get_extra_state())


def test_header_and_weights_agree_on_the_options(tmp_path: Path) -> None:
    save_file(RNNFunctional(1, 3, dt=0.5).state_dict(), tmp_path / "m", metadata={"cofm": header()})
    with pytest.raises(ValueError, match=r"dt was 0\.5 and is 1\.0 here"):
        load_model(tmp_path / "m")


@pytest.mark.filterwarnings("error")
def test_options_warn_once_in_the_life_of_a_model(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="dropout"):
        model = RNNFunctional(1, 3, dropout=0.5)
    save_model(tmp_path / "m", model)
    assert load_model(tmp_path / "m").rnn.dropout == 0.5


@pytest.mark.parametrize("read", [load_model, read_notes])
def test_a_folder_or_a_pipe_is_no_model_file(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match=r"path must be a cofm model file.*is no regular file"):
            read(path)


@pytest.mark.parametrize(
    ("notes", "error"),
    [({"loss": float("nan")}, ValueError), ({"loss": float("inf")}, ValueError), ({"loss": {1}}, TypeError)],
)
def test_notes_are_json(tmp_path: Path, notes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="notes must be JSON values"):
        save_model(tmp_path / "m", RNNFunctional(1, 3), notes)
    assert not (tmp_path / "m").exists()


def test_notes_are_a_dict(tmp_path: Path) -> None:
    notes: Any = [1]
    with pytest.raises(TypeError, match="notes must be a dict or None, got list"):
        save_model(tmp_path / "m", RNNFunctional(1, 3), notes)


def test_missing_safetensors_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "m", RNNFunctional(1, 3))
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    message = r"model files need safetensors: pip install 'cofm-triton\[reproduce\]'"
    with pytest.raises(ImportError, match=message):
        save_model(tmp_path / "m", RNNFunctional(1, 3))
    with pytest.raises(ImportError, match=message):
        load_model(tmp_path / "m")
