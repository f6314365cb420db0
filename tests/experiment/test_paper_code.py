"""What the code of arXiv 2305.19190 does otherwise than its text says, and that we do not repeat it.

Of radarFudan/Curse-of-memory at commit 136766e; docs/reproduce.md lists it.
"""

import math

import pytest
import torch
from torch import Tensor, nn

import cofm_triton as cofm


class FilterTarget(nn.Module):
    """Its "transformer" filter: a decoder layer that is made without batch_first, and is never in evaluation mode."""

    input_size = 1

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(d_model=16, dim_feedforward=32, nhead=1, dtype=torch.float64)
        self.readin, self.readout = (nn.Linear(*sizes, dtype=torch.float64) for sizes in ((1, 16), (16, 1)))
        self.decoder = nn.TransformerDecoder(layer, num_layers=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.readin(x)
        y: Tensor = self.readout(self.decoder(h, h))
        return y


def test_filter_targets_have_no_memory() -> None:
    """Outputs see other sequences and no other time, and change from call to call; `memory_function` refuses them."""
    torch.manual_seed(0)
    target, x = FilterTarget(), torch.randn(3, 7, 1, dtype=torch.float64)
    assert not torch.equal(target(x), target(x))  # dropout
    target.eval()
    before, earlier = target(x), x.clone()
    earlier[:, 2] += 1
    after = target(earlier)
    assert not torch.equal(after[:, 2], before[:, 2])
    assert torch.equal(after[:, 3:], before[:, 3:]) and torch.equal(after[:, :2], before[:, :2])
    other = x.clone()
    other[0] += 1
    assert not torch.allclose(target(other)[1:], before[1:])
    with pytest.raises(ValueError, match="outputs that depend on other sequences"):
        cofm.memory_function(target, 20)


def test_nan_is_not_dropped_from_a_maximum() -> None:
    """`previous = max(previous, error)` keeps what it had where the error is NaN; ours is infinite from there on."""
    assert max(0.5, math.nan) == 0.5
    model = cofm.RNNFunctional(1, 2, parameterization="direct", nonlinearity="linear", discretization="euler")
    with torch.no_grad():
        model.rnn.rate_l0.fill_(0.1)
        model.readout.weight.copy_(torch.tensor([[1.0, -1.0]]))  # infinity minus infinity
    x, y = cofm.targets.generate("exp", 4, 400, dtype=torch.float32)
    moved = [{"0.rnn.rate_l0": torch.tensor([-1.0, -1.0])}]
    radii = [0.0, 5.0, 0.01]
    curve = cofm.perturbation_error(nn.Sequential(model), x, y, radii=radii, directions=moved, dtype=torch.float32)
    assert curve.error[0, 1] == math.inf and bool(curve.diverged[0, 1])
    assert bool(curve.error[0, [0, 2]].isfinite().all()) and curve.running_max[0, 1] == math.inf
