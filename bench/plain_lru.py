"""The LRU of arXiv 2303.06349 (equations 3 to 8), written plainly: what a user of it would write, around our scan.

    h[t] = l h[t-1] + gamma B x[t],   y[t] = act(Re(C h[t]) + D x[t]),   l = exp(-exp(nu) + i exp(theta))

with |l| uniform by area in the ring from `inner` to `outer`, angles uniform, and gamma = sqrt(1 - |l|^2) at first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import cofm_triton as cofm


class PlainLRU(nn.Module):
    """Layers of `hidden_size // 2` complex units each; (B, T, d) to (B, T, hidden_size), batch-first."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, *, outer: float = 0.99) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * num_layers
        self.layers = nn.ModuleList(_Layer(d, hidden_size, outer) for d in sizes[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Outputs; no state."""
        for layer in self.layers:
            x = layer(x)
        return x, None


class _Layer(nn.Module):
    def __init__(self, size: int, hidden_size: int, outer: float, inner: float = 0.4) -> None:
        super().__init__()
        units = hidden_size // 2
        area = torch.rand(units) * (outer**2 - inner**2) + inner**2
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(area)))
        self.theta = nn.Parameter(torch.log(2 * math.pi * torch.rand(units)))
        self.gamma = nn.Parameter(torch.log(1 - area) / 2)
        self.encoder = nn.Parameter(torch.randn(units, size, 2) / math.sqrt(2 * size))
        self.readout = nn.Parameter(torch.randn(hidden_size, units, 2) / math.sqrt(units))
        self.skip = nn.Linear(size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.exp(torch.complex(-torch.exp(self.nu), torch.exp(self.theta)))
        encoder = torch.exp(self.gamma)[:, None, None] * self.encoder
        driven = torch.complex(x @ encoder[..., 0].T, x @ encoder[..., 1].T)
        h, _ = cofm.linear_scan(driven, decay)
        real = h.real @ self.readout[..., 0].T - h.imag @ self.readout[..., 1].T
        return torch.nn.functional.gelu(real + self.skip(x))
