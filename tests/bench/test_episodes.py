"""The corridor is what its text says, and an agent with resets learns it in a moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench import episodes


def test_the_corridor() -> None:
    """Episodes have an odd number of steps from 3 to 15; who turns to the side with more towers is paid."""
    corridor = episodes.Corridor(20, torch.Generator().manual_seed(0))
    steps, towers = torch.zeros(20), torch.zeros(20)
    lengths = []
    for _ in range(100):
        seen = corridor.see()
        steps, towers = steps + 1, towers + seen[:, 0]
        pay, done = corridor.act(towers > 0)
        assert torch.equal(done, seen[:, 1] == 1) and torch.equal(pay, done.float())
        lengths += steps[done].tolist()
        steps, towers = steps.masked_fill(done, 0), towers.masked_fill(done, 0)
    assert set(lengths) == {3, 5, 7, 9, 11, 13, 15}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of 64 mice are too short to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("row", episodes.ROWS)
def test_a_chunk_is_seen_again_as_it_was_acted(row: str) -> None:
    """The layer on a chunk, with resets, gives the outputs of the steps, in the middle of a walk."""
    torch.manual_seed(0)
    agent, walk = episodes.Agent(), episodes.Walk(row, 0)
    for _ in range(2):
        seen, _turned, _pay, began, _ended, first = walk.chunk(agent)
    with torch.no_grad():
        output, h_n = agent.rnn(seen, first, resets=walk.resets(began))
        again, _ = agent.rnn.step(seen[:, -1], h_n * 0) if row == "no memory" else (output[:, -1], None)
    torch.testing.assert_close(h_n, walk.state)
    torch.testing.assert_close(output[:, -1], again)


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Who only sees the last tower is right in two corridors of three."""
    shares = episodes.main(["--rows", "resets", "--seeds", "0", "--updates", "120"])
    assert shares["resets"] > 0.8
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["| resets"]
