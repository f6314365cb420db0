"""Certificates against measurements: how long chains must warm up, by the Lyapunov exponent, in fact, and by the rules.

    python bench/certificates.py            # the table; a minute or two
    python bench/certificates.py --units 32

A chain starts from a guess, zero, and needs so many steps until its states have the bits of the whole sequence
(docs/backends.md). Columns, in steps, for states in float32:

- exponent: the largest along the inputs, 1 / step; without saturation it would be log(1 - rate).
- predicted: `warm_up_steps` of it. measured: until all units agree for good, the median and the largest of 64 chains.
- CPU, GPU: the warm-ups of today's rules, which know the slowest rate and nothing of the inputs (the GPU's rounds of
  repair make them longer by a chunk each). rounds: of repair on a GPU, predicted and measured; it has two.
- saved: steps of 8 chains over 65,536 steps that the CPU would be spared if it warmed up as long as predicted, in
  percent of all it runs; negative: steps it would have to add, in place of a fallback that does chunks in order.
- price: the time of the exponent along 2,048 of those steps, over that of the whole call.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.cpu.guess import MARGIN, guess_steps
from cofm_triton.kernels.launch import CHUNK, FADES, WARM_UP
from cofm_triton.memory.lyapunov import lyapunov_exponent

LENGTH, CHAINS, STARTS, SAMPLE = 65_536, 8, 64, 2048
RATES, SCALES, ACTS = (0.1, 0.01), (0.3, 1.0, 3.0, 10.0), ("tanh", "hardtanh")


class Case(NamedTuple):
    """What is scanned: inputs of standard deviation `scale`, one rate for all units."""

    act: str
    rate: float
    scale: float
    units: int


def measured(case: Case, x: Tensor, reach: int) -> list[int]:
    """Steps until each of `STARTS` chains has the bits of the whole sequence, for good; `reach` where it never has."""
    rate = torch.full((case.units,), case.rate)
    whole, _ = cofm.rnn_scan(x, rate, nonlinearity=case.act)
    starts = [1 + k * (LENGTH - reach - 1) // STARTS for k in range(STARTS)]
    chains, _ = cofm.rnn_scan(torch.cat([x[:, s : s + reach] for s in starts]), rate, nonlinearity=case.act)
    wrong = (chains != torch.cat([whole[:, s : s + reach] for s in starts])).any(2)
    return sorted(int(row.nonzero().max()) + 1 if bool(row.any()) else 1 for row in wrong)


class Scan(nn.Module):
    """`rnn_scan` of a case, from a state to a state."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All states, and the last one."""
        rate = torch.full((self.case.units,), self.case.rate, dtype=x.dtype)
        return cofm.rnn_scan(x, rate, h, nonlinearity=self.case.act)


def row(case: Case) -> str:
    """A line of the table."""
    x = case.scale * torch.randn(1, LENGTH, case.units, generator=torch.Generator().manual_seed(0))
    rate = torch.full((case.units,), case.rate)
    fade = FADES[4] / -math.log1p(-case.rate)
    cpu = guess_steps(1 - rate.numpy(), MARGIN)
    assert cpu is not None
    lyapunov_exponent(Scan(case), x[:, :3])  # compiles
    start = time.perf_counter()
    exponent = lyapunov_exponent(Scan(case), x[:, :SAMPLE])
    price = time.perf_counter() - start
    cofm.rnn_scan(x, rate, nonlinearity=case.act)
    start = time.perf_counter()
    cofm.rnn_scan(x, rate, nonlinearity=case.act)
    price /= time.perf_counter() - start
    predicted = exponent.warm_up_steps()
    reach = min(LENGTH // 2, 8 * math.ceil(fade))
    found = measured(case, x, reach)
    rounds = [_rounds(n, fade) for n in (predicted, found[-1])]
    saved = "-" if predicted is None else f"{100 * CHAINS * (cpu - predicted) / (LENGTH + CHAINS * cpu):+.1f} %"
    largest = f"> {reach}" if found[-1] >= reach else str(found[-1])
    cells = (
        case.act, case.rate, case.scale, f"{exponent.largest:.3g}", predicted, found[STARTS // 2], largest, cpu,
        math.ceil(WARM_UP * fade), *rounds, saved, f"{price:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _rounds(steps: int | None, fade: float) -> str:
    """Of repair that chains on a GPU need."""
    return "-" if steps is None else str(max(0, math.ceil((steps - WARM_UP * fade) / (CHUNK * fade))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--acts", nargs="+", default=ACTS, choices=ACTS)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES)
    options = parser.parse_args(arguments)
    print(
        "| act | rate | inputs | exponent | predicted | measured | largest | CPU | GPU | rounds | measured | saved "
        "| price |"
    )
    print("|" + " --- |" * 13)
    for act, rate, scale in product(options.acts, options.rates, options.scales):
        print(row(Case(act, rate, scale, options.units)), flush=True)


if __name__ == "__main__":
    main()
