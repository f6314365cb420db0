"""Agents with memory, in episodes that begin and end inside a batch: an actor-critic on a corridor with towers.

    python bench/episodes.py                          # the table: three seeds of every row, a minute or two
    python bench/episodes.py --rows resets --seeds 0  # one of them

A mouse runs down a corridor, past a tower at every step, on its left or on its right. At the end it turns, and is paid
for the side that had more of them. Corridors have 3, 5, ... or 15 steps, so that 64 mice are never at the same place.

Every update sees the next 16 steps of all mice. States are carried from chunk to chunk, without gradients, and a mouse
that starts anew starts from zero: `resets` in the layer, zeros in the rows of the state while it acts. The other rows
do without: what was before is seen as well ("no resets"), every chunk starts from zero ("nothing carried"), every step
does ("no memory").

Source: towers are the task of Pinto et al., Frontiers in Behavioral Neuroscience 12 (2018) 36; actor-critic in chunks,
arXiv 1602.01783, algorithm S3, with all mice in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofm_triton import StableRNN
from cofm_triton.optim import parameter_groups

MICE, CHUNK, WIDTH, TEST_CHUNKS = 64, 16, 32, 40
ROWS = ("resets", "no resets", "nothing carried", "no memory")


class Corridor:
    """As many mice as there are rows; who has turned stands at the beginning of another corridor.

    Attributes:
        left: (B,), steps until each has to turn; 0: now.
        more: (B,), towers on the right minus those on the left.
        tower: (B,), the one that each sees, 1 right or -1 left.
    """

    def __init__(self, mice: int, generator: torch.Generator) -> None:
        self.generator, zeros = generator, torch.zeros(mice)
        self.left, self.more, self.tower = zeros.clone(), zeros.clone(), zeros.clone()
        self._go(torch.ones(mice, dtype=torch.bool))

    def see(self) -> Tensor:
        """(B, 2): the tower, and whether it is the last one."""
        return torch.stack((self.tower, (self.left == 0).float()), 1)

    def act(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """Pay (B,) of turns (B,), which count at the end, and whether a new corridor begins (B,)."""
        done = self.left == 0
        pay = torch.where(done, torch.where(right == (self.more > 0), 1.0, -1.0), 0.0)
        self._go(done)
        return pay, done

    def _go(self, anew: Tensor) -> None:
        """One step on, or to the beginning of a corridor."""
        lengths = 2 * torch.randint(1, 8, self.left.shape, generator=self.generator)
        self.tower = 2.0 * torch.randint(0, 2, self.left.shape, generator=self.generator) - 1
        self.left = torch.where(anew, lengths.float(), self.left - 1)
        self.more = torch.where(anew, 0, self.more) + self.tower


class Agent(nn.Module):
    """A layer, and logits of both turns and the expected pay, linear in its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = StableRNN(2, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, seen: Tensor, hx: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, 2) and values (B, T) of a chunk."""
        out = self.head(self.rnn(seen, hx, resets=resets)[0])
        return out[..., :2], out[..., 2]


class Walk:
    """Mice on their way through corridors, and the states they carry: `chunk` takes them 16 steps further.

    Attributes:
        row: which of `ROWS`.
        state: (1, B, D), before the next step.
        new: (B,), whether an episode begins with it.
    """

    def __init__(self, row: str, seed: int) -> None:
        self.row, generator = row, torch.Generator().manual_seed(seed)
        self.corridor, self.generator = Corridor(MICE, generator), generator
        self.state, self.new = torch.zeros(1, MICE, WIDTH), torch.ones(MICE, dtype=torch.bool)

    @torch.no_grad()
    def chunk(self, agent: Agent, greedy: bool = False) -> tuple[Tensor, ...]:
        """What was seen, done, paid (B, T), where episodes began, whether each step ended one, and the first state."""
        if self.row == "nothing carried":
            self.state = torch.zeros_like(self.state)
        stepper, first, steps = agent.rnn.prepared(), self.state, []
        for _ in range(CHUNK):
            seen, new = self.corridor.see(), self.new
            if self.row != "no resets":
                self.state = self.state.masked_fill(new[:, None] | (self.row == "no memory"), 0)
            output, self.state = stepper.step(seen, self.state)
            logits = agent.head(output)[:, :2]
            chance = logits.softmax(1)
            right = chance.argmax(1) if greedy else torch.multinomial(chance, 1, generator=self.generator)[:, 0]
            pay, self.new = self.corridor.act(right == 1)
            steps.append((seen, right, pay, new, self.new))
        return *(torch.stack(values, 1) for values in zip(*steps, strict=True)), first

    def resets(self, began: Tensor) -> Tensor | None:
        """(B, T), for the layer."""
        if self.row == "no memory":
            return torch.ones_like(began)
        return None if self.row == "no resets" else began


def loss(agent: Agent, walk: Walk, rolled: tuple[Tensor, ...]) -> Tensor:
    """Of an actor-critic: the pay at the end of an episode, or the value where the chunk ends before, is the return."""
    seen, turned, pay, began, ended, first = rolled
    logits, values = agent(seen, first, walk.resets(began))
    later, returns = values[:, -1].detach(), []  # what is expected changes little in a step
    for t in reversed(range(CHUNK)):
        later = torch.where(ended[:, t], pay[:, t], later)
        returns.append(later)
    advantage = torch.stack(returns[::-1], 1) - values
    chosen = F.log_softmax(logits, 2).gather(2, turned[..., None])[..., 0]
    entropy = -(logits.softmax(2) * F.log_softmax(logits, 2)).sum(2)
    return (advantage.square() / 2 - advantage.detach() * chosen - 0.01 * entropy).mean()


def train(row: str, seed: int, updates: int) -> tuple[float, float]:
    """Share of right turns afterwards, of a greedy agent in new corridors, and processor seconds of training."""
    torch.manual_seed(seed)
    agent, walk, start = Agent(), Walk(row, seed), process_time()
    optimizer = torch.optim.AdamW(parameter_groups(agent, weight_decay=0.01), lr=0.01)
    for _ in range(updates):
        optimizer.zero_grad()
        loss(agent, walk, walk.chunk(agent)).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimizer.step()
    seconds, test = process_time() - start, Walk(row, 1_000_000 + seed)
    paid = torch.stack([test.chunk(agent, greedy=True)[2] for _ in range(TEST_CHUNKS)])
    return float((paid > 0).sum() / (paid != 0).sum()), seconds


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train the rows that the command line names and print the table; the mean shares of right turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--updates", type=int, default=500)
    options = parser.parse_args(arguments)
    print("| states | right turns, mean | range | CPU s |\n| --- | --- | --- | --- |")
    means = {}
    for row in options.rows:
        shares, times = zip(*(train(row, seed, options.updates) for seed in options.seeds), strict=True)
        means[row] = mean(shares)
        span = f"{min(shares):.1%} to {max(shares):.1%}"
        print(f"| {row} | {means[row]:.1%} | {span} | {mean(times):.0f} |", flush=True)
    return means


if __name__ == "__main__":
    main()
