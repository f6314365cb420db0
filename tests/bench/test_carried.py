"""Carried states: chunks that go on are the whole text, and a short run learns something."""

from __future__ import annotations

import pytest
import torch

from bench import carried


def test_chunks_with_carried_states_are_the_text_in_one_go() -> None:
    """Both layers' states; without them the second chunk is read as the first of another text."""
    torch.manual_seed(0)
    model, text = carried.Reader(7), torch.randint(7, (2, 40))
    with torch.no_grad():
        whole, _ = model(text)
        first, h = model(text[:, :25])
        second, _ = model(text[:, 25:], h)
        alone, _ = model(text[:, 25:])
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    assert h.shape == (2, 2, carried.WIDTH) and not torch.allclose(alone, second)


@pytest.mark.slow
def test_a_short_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Better than guessing each character alike."""
    monkeypatch.setattr(carried, "WIDTH", 8)
    train, held_out, characters = carried.corpus()
    monkeypatch.setattr(carried, "corpus", lambda: (train, held_out[:2049], characters))
    found = carried.main(["--rows", "carried, 32", "--seeds", "0", "--steps", "20"])
    assert all(bits < torch.tensor(float(characters)).log2() for bits in found["carried, 32"][0])
    assert capsys.readouterr().out.splitlines()[2].startswith("| carried, 32 | ")
