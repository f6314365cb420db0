"""How much a step brings two states together at least, whatever the inputs: a bound from the weights alone.

    |h'[k] - h[k]| <= rho |h'[k-1] - h[k-1]|      for two states under the same inputs,   rho = sup |J|

J is a step's Jacobian, and the supremum is over all values that the slope s of the nonlinearity can take:

    linear state     J = l                      rho = max |l|
    single units     J = 1 + dt s back          the ends of the slopes, one unit at a time
    pairs            J = I + dt diag(s) B       B 2 x 2; the corners of the slopes, for |J| is convex in them
    matrices         J = I + dt diag(s) B       |I + dt c B| + dt r |B|,   s in [c - r, c + r]
    gates            J = decay R                the largest decay that the logits can reach
    nn.RNN           J = diag(s) W_hh           max(s) |W_hh|

back = -a is what a step multiplies the state by, in the spectral norm. rho < 1: the largest Lyapunov exponent is at
most log rho for every input. A slope of 0 (a saturated tanh, relu at rest) leaves differences as they are: rho is 1
then, which says nothing, unless inputs have a bound that keeps single units out of saturation.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

from cofm_triton.layers.cell import Cell
from cofm_triton.layers.recurrences.gated import GatedCell
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.modules.module_state import OtherTensors
from cofm_triton.step.activation import activation_slope
from cofm_triton.step.activations import properties
from cofm_triton.step.gates import coefficients
from cofm_triton.support.scalars import check_number

_GRID = 1024  # slopes of an interval; its ends, where those of saturating functions are smallest, are on it
_ANY = 1e30  # as good as no bound on inputs, and times 0 it is 0


@torch.no_grad()
def contraction_bound(layer: nn.Module, radius: float | None = None) -> float:
    """A factor by which every step brings two states together at least, for all inputs; in float64.

    Args:
        layer: a `StableRNN`, `RNNFunctional`, or `nn.RNN`; the largest factor of its layers. (`nn.GRU` and `nn.LSTM`
            have no useful bound of this kind: take `lyapunov_exponent`.)
        radius: largest |x|_inf of inputs, which single units of a saturating nonlinearity and gates of the first layer
            need; layers above are bounded for any input. None: no bound on inputs. States start within what inputs can
            lead to, as 0 does.

    Returns:
        rho; 1 or more says nothing. `warm_up_steps(math.log(rho))` then has no answer; for a stack multiply its answer
        by the layers, each of which waits for the one below.

    Raises:
        TypeError: another module.
        ValueError: `radius` is not positive.

    Example:
        >>> import cofm_triton as cofm
        >>> layer = cofm.StableRNN(1, 4)
        >>> abs(contraction_bound(layer) - math.exp(-layer.stability_margin())) < 1e-6
        True
    """
    radius = math.inf if radius is None else check_number("radius", radius)
    rnn = layer.rnn if isinstance(layer, RNNFunctional) else layer
    if isinstance(rnn, StableRNN):
        with OtherTensors(rnn, dtype=torch.float64):
            cells = [[rnn._cell.cell(rnn, suffix) for suffix in suffixes] for suffixes in rnn._suffixes]
        return max(_factor(cell, radius if k == 0 else math.inf) for k, row in enumerate(cells) for cell in row)
    if isinstance(rnn, nn.RNN):
        steepest = max(map(abs, properties(rnn.nonlinearity).slopes))
        return max(steepest * _norm(value) for name, value in rnn.named_parameters() if name.startswith("weight_hh"))
    raise TypeError(
        f"layer must be a StableRNN, RNNFunctional or nn.RNN, got {type(layer).__name__}: along given inputs, "
        "lyapunov_exponent takes any recurrence"
    )


def _factor(cell: object, radius: float) -> float:
    """Of one layer in one direction."""
    if isinstance(cell, GatedCell):
        return _largest_decay(cell, radius)
    if not isinstance(cell, Cell):
        raise TypeError(f"no bound is known for {type(cell).__name__}")
    back = cell.back
    if cell.act is None:
        return float(back.abs().max())
    dt = torch.as_tensor(cell.dt, dtype=torch.float64, device=back.device)
    if back.dim() == 2:
        least, most = properties(cell.act).slopes
        eye = torch.eye(len(back), dtype=back.dtype, device=back.device)
        return _norm(eye + dt * (least + most) / 2 * back) + float(dt) * (most - least) / 2 * _norm(back)
    low, high = _slopes(cell, cell.act, dt, radius)
    if not back.is_complex():
        return float(torch.stack([(1 + dt * slope * back).abs() for slope in (low, high)]).max())
    turn = torch.stack([torch.stack([back.real, -back.imag], -1), torch.stack([back.imag, back.real], -1)], -2)
    steps = dt.expand(2 * len(back)).view(-1, 2)
    ends = torch.stack([low, high]).view(2, -1, 2)
    corners = (torch.stack([ends[i, :, 0], ends[j, :, 1]], -1) for i, j in product((0, 1), repeat=2))
    eye = torch.eye(2, dtype=torch.float64, device=back.device)
    return max(_norm(eye + (steps * slope)[..., None] * turn) for slope in corners)


def _slopes(cell: Cell, act: str, dt: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest slope that each unit can have, (D,) each.

    A single unit with 0 <= dt a <= 1 and |e| <= E keeps |a h| <= E, for act is no steeper than 1 and has the sign of
    its argument: so |e - a h| <= 2 E.
    """
    row, back = properties(act), cell.back
    low, high = (cell.encoder.new_full((cell.encoder.shape[1],), slope) for slope in row.slopes)
    keeps_sign = row.is_restoring and row.slopes[0] >= 0 and row.slopes[1] <= 1
    if math.isinf(radius) or back.is_complex() or not keeps_sign:
        return low, high
    largest = radius * cell.encoder.abs().sum(0)
    largest = largest if cell.bias is None else largest + cell.bias.abs()
    share = torch.linspace(-1, 1, 2 * _GRID + 1, dtype=largest.dtype, device=largest.device)[:, None]
    reached = activation_slope(act)(share * 2 * largest).amin(0)
    is_monotone = (-dt * back >= 0) & (-dt * back <= 1)
    return torch.where(is_monotone, reached, low), high


def _largest_decay(cell: GatedCell, radius: float) -> float:
    """At the corners of what logits can reach: a decay falls or rises in each of them throughout."""
    width = len(cell.rate)
    reach = min(radius, _ANY) * cell.encoder.abs().sum(0)
    bias = torch.zeros_like(reach) if cell.bias is None else cell.bias
    _, *ends = torch.stack([bias - reach, bias + reach], 1).unflatten(0, (-1, width)).unbind(0)
    decays = []
    for corner in product((0, 1), repeat=len(ends)):
        logits = [end[:, side] for end, side in zip(ends, corner, strict=True)]
        decays.append(coefficients(cell.gates, cell.rate, logits[0], logits[1] if len(logits) > 1 else None)[0])
    return float(torch.stack(decays).max())


def _norm(matrix: Tensor) -> float:
    """Spectral, the largest of a batch."""
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2).max())
