"""Memories of trained models: each model of the figure is causal, and a short run keeps what it trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import memories


@pytest.mark.parametrize("name", memories.MODELS)
def test_models_are_causal_and_take_any_length(name: str) -> None:
    torch.manual_seed(0)
    model, x = memories.MODELS[name]().eval(), torch.randn(2, 9, 1)
    later = x.clone()
    later[:, 5:] += 1
    with torch.no_grad():
        assert torch.equal(model(x)[:, :5], model(later)[:, :5])
        assert not torch.allclose(model(x)[:, 5:], model(later)[:, 5:])


def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(memories, "LENGTH", 30)
    words = [
        "--models",
        "SSM",
        "nn.RNN",
        "--steps",
        "2",
        "--folder",
        str(tmp_path),
        "--figure",
        str(tmp_path / "m.png"),
    ]
    first = memories.main(words)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"SSM-2.pt", "nn.RNN-2.pt", "m.png"}
    again = memories.main(words)
    assert torch.equal(first["SSM"].values, again["SSM"].values)
    assert capsys.readouterr().out.count("SSM") == 2
