"""How trained sequence models forget, all in one figure: nn.RNN, nn.GRU, nn.LSTM, ours, a Transformer, and an SSM.

    python bench/memories.py                                   # trains, draws bench/results/memories.png, the table
    cofm memory bench.memories:gru bench.memories:ssm --length 100 --warm-up 100   # the command's figure, of two

Every model learns the target of polynomial memory (`pol`, 100 steps) from fresh sequences, in the same way; then
`memory_function` looks at all 100 steps, after 100 of zero input. What was trained is kept in out/memories.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.cli.table import aligned

FOLDER, LENGTH, WIDTH, BATCH = Path("out/memories"), 100, 16, 16
FIGURE = Path(__file__).parent / "results" / "memories.png"


class Reader(nn.Module):
    """A linear read-out of what a layer returns, or returns first."""

    def __init__(self, layer: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.input_size, self.layer, self.head = 1, layer, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 1) to (N, T, 1)."""
        y = self.layer(x)
        return cast(Tensor, self.head(y[0] if isinstance(y, tuple) else y))


class CausalTransformer(nn.Module):
    """One layer that sees the past, with the attention's bias against distance of ALiBi (arXiv 2108.12409).

    By hand, since `nn.TransformerEncoderLayer` in evaluation mode takes a mask of numbers for one of yes and no.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.into = 2, nn.Linear(1, WIDTH)
        self.attention, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.feed = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 1) to (N, T, width)."""
        steps = torch.arange(x.shape[1], device=x.device)
        distance = (steps[:, None] - steps).to(x.dtype)
        slopes = torch.tensor([2.0 ** -(4 * (k + 1)) for k in range(self.heads)], dtype=x.dtype, device=x.device)
        bias = torch.where(distance >= 0, -slopes[:, None, None] * distance, -torch.inf)
        h = self.into(x)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attention(h).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (N, heads, T, width / heads)
        h = self.norms[0](h + self.out(seen.transpose(1, 2).flatten(2)))
        return cast(Tensor, self.norms[1](h + self.feed(h)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "nn.RNN": lambda: Reader(nn.RNN(1, WIDTH, batch_first=True)),
    "nn.GRU": lambda: Reader(nn.GRU(1, WIDTH, batch_first=True)),
    "nn.LSTM": lambda: Reader(nn.LSTM(1, WIDTH, batch_first=True)),
    "StableRNN": lambda: Reader(cofm.StableRNN(1, WIDTH, batch_first=True)),
    "RNNFunctional": lambda: cofm.RNNFunctional(1, WIDTH, nonlinearity="tanh", parameterization="inverse"),
    "SSM": lambda: cofm.RNNFunctional(1, WIDTH, nonlinearity="linear", recurrence="ssm", parameterization="exp"),
    "Transformer": lambda: Reader(CausalTransformer()),
}


def trained(name: str, steps: int = 300, folder: Path = FOLDER) -> nn.Module:
    """A model, trained, or as it was kept."""
    torch.manual_seed(0)
    model, path = MODELS[name](), folder / f"{name}-{steps}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for step in range(steps):
        x, y = cofm.targets.generate("pol", BATCH, LENGTH, seed=1 + step, dtype=torch.float32)
        optimizer.zero_grad()
        cofm.temporally_weighted_mse(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


rnn, gru, lstm, stable_rnn, functional, ssm, transformer = (partial(trained, name) for name in MODELS)


@torch.no_grad()
def relative_error(model: nn.Module) -> float:
    """On sequences that were not trained on, over that of the zero model."""
    x, y = cofm.targets.generate("pol", 256, LENGTH, seed=0, dtype=torch.float32)
    errors = [cofm.temporally_weighted_mse(z, y) for z in (model(x), torch.zeros_like(y))]
    return float(errors[0] / errors[1])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Draw the figure and print the table; the memory functions by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=tuple(MODELS), choices=tuple(MODELS))
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    memories = {}
    rows = [("model", "error", "decay", "rate", "on halves", "margin")]
    for name in options.models:
        model = trained(name, options.steps, options.folder)
        memories[name] = memory = cofm.memory_function(model, LENGTH, warm_up=LENGTH)
        fit = memory.fit()
        halves = "{:.3g} to {:.3g}".format(*fit.interval)
        decay = fit.decay if fit.is_clear else "undecided"
        rows.append((name, f"{relative_error(model):.2g}", decay, f"{fit.rate:.3g}", halves, f"{fit.margin:.2f}"))
    cofm.plot_memory(memories, options.figure)
    print(aligned(rows), end="")
    return memories


if __name__ == "__main__":
    main()
