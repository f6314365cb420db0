"""Short training sequences, long inference: states carried from chunk to chunk (LongSSM, arXiv 2406.02080).

    python bench/carried.py                                # the table: three seeds of every row, some minutes
    python bench/carried.py --rows "zero, 32" --seeds 0    # one of them

A language model reads characters: an embedding, two `StableRNN` layers, a linear read-out. It is trained on chunks of
32 characters, and then reads 1,024 in one go. Rows differ in the state that a chunk starts from:

- zero: every chunk starts from zero, as is usual. The layers never see a state older than 32 steps while training.
- carried: the next chunk of the same text starts from the last state of the one before, of both layers, without
  gradients: `h = h.detach()`. That is all there is to it. A chunk costs what it cost before.
- zero, 256: chunks of 256 characters from zero, an eighth of the rows: the same characters a step, a longer gradient.

The text is Python's own reference, which every interpreter brings with it (`pydoc_data.topics`): numbers differ a
little from one version of Python to the next. The last tenth is held out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import lru_cache
from pydoc_data.topics import topics
from statistics import mean
from time import process_time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofm_triton as cofm

CHARACTERS_A_STEP, WIDTH, LONG = 1024, 64, 1024
WINDOWS = ((0, 32), (32, 256), (256, LONG))


class Row(NamedTuple):
    """How the model is trained."""

    chunk: int
    carried: bool


ROWS = {"zero, 32": Row(32, False), "carried, 32": Row(32, True), "zero, 256": Row(256, False)}


class Reader(nn.Module):
    """Logits of the next character."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.rnn = cofm.StableRNN(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, characters)

    def forward(self, text: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, characters) of text (B, T), and the states of both layers (2, B, D)."""
        output, h = self.rnn(self.embedding(text), h)
        return self.head(output), h


@lru_cache
def corpus() -> tuple[Tensor, Tensor, int]:
    """Training and held-out text as numbers, and how many characters there are; rare ones count as one."""
    text = "\n".join(topics[name] for name in sorted(topics))
    known = sorted({c for c in set(text) if text.count(c) >= 20})
    number = {c: i + 1 for i, c in enumerate(known)}
    data = torch.tensor([number.get(c, 0) for c in text])
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:], len(known) + 1


def train(row: Row, seed: int, steps: int) -> tuple[Reader, float]:
    """A model, and the processor seconds of its training."""
    torch.manual_seed(seed)
    text, _, characters = corpus()
    model, rows = Reader(characters), CHARACTERS_A_STEP // row.chunk
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model, weight_decay=0.01), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    place = torch.randint(len(text) - 1 - steps * row.chunk, (rows, 1))  # of every row of the batch, which goes on
    h, start = None, process_time()
    for step in range(steps):
        index = place + step * row.chunk + torch.arange(row.chunk + 1)
        chunk = text[index]
        logits, h_last = model(chunk[:, :-1], h)
        h = h_last.detach() if row.carried else None
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model, process_time() - start


@torch.no_grad()
def bits(model: Reader) -> list[float]:
    """Bits per character of held-out text read in one go, in each window of positions."""
    _, text, _ = corpus()
    rows = text[: (len(text) - 1) // LONG * LONG + 1]
    x, y = rows[:-1].view(-1, LONG), rows[1:].view(-1, LONG)
    losses = F.cross_entropy(model(x)[0].transpose(1, 2), y, reduction="none") / math.log(2)
    return [float(losses[:, first:last].mean()) for first, last in WINDOWS]


def main(arguments: Sequence[str] | None = None) -> dict[str, list[list[float]]]:
    """Train the rows that the command line names and print the table; bits of every seed and window."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=tuple(ROWS), choices=tuple(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(arguments)
    windows = " | ".join(f"{first + 1} to {last}" for first, last in WINDOWS)
    print(f"| states, chunk | {windows} | CPU s |\n|{' --- |' * (2 + len(WINDOWS))}")
    found = {}
    for name in options.rows:
        results, times = [], []
        for seed in options.seeds:
            model, seconds = train(ROWS[name], seed, options.steps)
            results.append(bits(model))
            times.append(seconds)
        cells = [f"{mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in zip(*results, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {mean(times):.0f} |", flush=True)
        found[name] = results
    return found


if __name__ == "__main__":
    main()
