"""A stream, one step at a time: a predictor that was trained on whole sequences watches a signal for surprises.

python docs/examples/stream.py    # some seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.support.figure_file import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAULT = 300  # the step at which the signal changes its rhythm, for 20 steps


def signal(count: int, length: int) -> Tensor:
    """Two rhythms and noise, (count, length, 1)."""
    time, phase = torch.arange(length), 6.3 * torch.rand(count, 1)
    waves = torch.sin(0.3 * time + phase) + 0.5 * torch.sin(0.05 * time + 2 * phase)
    return (waves + 0.05 * torch.randn(count, length))[..., None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on sequences, run on a stream, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    rnn, head = cofm.StableRNN(1, 32, batch_first=True), nn.Linear(32, 1)
    optimizer = torch.optim.AdamW(cofm.parameter_groups(nn.ModuleList([rnn, head])), lr=0.01)
    for _ in range(options.steps):
        x = signal(16, 200)
        loss = nn.functional.mse_loss(head(rnn(x[:, :-1])[0]), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    live = signal(1, 500)
    live[:, FAULT : FAULT + 20] = signal(1, 1000)[:, -20:] * 0.5
    surprises, h, expected = [], None, torch.zeros(1, 1)
    with torch.no_grad():
        stepper = rnn.prepared()  # coefficients are made once
        for x in live.unbind(1):
            surprises.append((x - expected).abs().item())
            output, h = stepper.step(x, h)
            expected = head(output)
        whole = rnn(live)[1]

    def plot(axes: Axes) -> None:
        axes.plot(live[0, :, 0], linewidth=1, label="signal")
        axes.plot(surprises, linewidth=1, label="surprise")
        axes.axvspan(FAULT, FAULT + 20, color="0.9")
        axes.set(xlabel="step", title="What was not expected one step before; grey: another signal")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    figure = options.out / "stream.png"
    draw(figure, plot)
    at = max(range(50, len(surprises)), key=surprises.__getitem__)
    apart = 0.0 if h is None else (h - whole).abs().max().item()
    print(f"The largest surprise is at step {at}; the stream's state is the sequence's to {apart:.0e}: {figure}")


if __name__ == "__main__":
    main()
