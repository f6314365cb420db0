"""Units, or pairs of units, whose rates depend on the input: "ssm" with gates.

    h' = decay R h + gain e,   decay = exp(-dt f(w) s),   s > 0 and gain from logits of the input (`step/gates.py`)

The rows of U and b are those of e, then of the rate's logits, then, where there are any, of the input's: one product,
as in `torch.nn.GRU`. Each unit has gates of its own; a pair turns by the angle dt * frequency in every step. Decays lie
in (0, 1] and turns keep sizes, so that no weights and no inputs make states grow by themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.layers.autocast import autocasts
from cofm_triton.layers.cell import affine
from cofm_triton.layers.padding import drive, final_state, initial_state
from cofm_triton.layers.recurrences.contract import Episodes, Layer, Weights, weights_of
from cofm_triton.layers.recurrences.elementwise import Elementwise, frequency_of, per_unit
from cofm_triton.ops.backends import INSTALLED, implementation
from cofm_triton.ops.derivatives import observed
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.coefficients import modes_of
from cofm_triton.step.gates import Gates, coefficients, gates_of, strength
from cofm_triton.step.pairs import as_complex, as_reals


class GatedCell(NamedTuple):
    """One step of one layer, with gates made from its input: what streams run, as `Cell`.

    Attributes:
        encoder: U transposed, (d, n D), of the input and the logits; D is even where units are pairs.
        bias: b, (n D,), or None.
        rate: dt f(w), (D,), in the dtype of the states.
        turn: exp(i angle) of pairs, complex (D / 2,), or None.
        gates: their row.
        compiled: the step of one core, with copies of these, or None.
    """

    encoder: Tensor
    bias: Tensor | None
    rate: Tensor
    turn: Tensor | None
    gates: Gates
    compiled: Any = None

    def advance(self, x: Tensor, h: Tensor | None, width: int, *, in_place: bool) -> tuple[Tensor, torch.dtype]:
        """h' of x (B, d) and h (B, width), as `Cell.advance`."""
        if in_place and self.compiled is not None and not observed((x, h)) and not autocasts(x.device):
            start = x.new_zeros(x.shape[0], len(self.rate)) if h is None else F.pad(h, (0, len(self.rate) - width))
            if self.compiled.takes(x, start):
                z = self.compiled(x, start)
                return (z if width == z.shape[1] else z[:, :width].contiguous()), x.dtype
        e, state = affine(x, self.encoder, self.bias), self.rate.dtype
        values, *logits = e.to(state).unflatten(1, (-1, len(self.rate))).unbind(1)
        decay, gain = coefficients(self.gates, self.rate, logits[0], logits[1] if len(logits) > 1 else None)
        z = gain * values
        if h is not None:
            h = F.pad(h.to(state), (0, z.shape[1] - h.shape[1]))
            z = torch.addcmul(z, decay, h if self.turn is None else as_reals(self.turn * as_complex(h)))
        return (z if width == z.shape[1] else z[:, :width].contiguous()), e.dtype


class Gated(Elementwise):
    """A row of `step/gates.py`, which `layer.gated` names."""

    def __init__(self) -> None:
        super().__init__(acts_on_output=True)

    def encoded(self, layer: Layer) -> int:
        """The input e of a unit and its logits."""
        return 3 if _gates(layer).has_input_logit else 2

    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """One `gated_rnn`; a single unit of an oscillating layer has a partner at zero, which no one else sees."""
        weights, width = weights_of(layer, suffix), layer.hidden_size
        if layer.oscillating and width % 2 and h0 is not None:
            h0 = F.pad(h0, (0, 1))
        e = F.linear(x, *_padded(layer, weights))
        values, p, *q = drive(e, lengths).chunk(self.encoded(layer), -1)
        rate, angle = _per_step(layer, suffix, state_dtype(e.dtype))
        h, h_last = layer.functions(suffix).gated_rnn(
            values,
            rate,
            p,
            q[0] if q else None,
            initial_state(h0, values),
            gates=_gates(layer).name,
            angle=angle,
            **episodes.keywords(),
            backend=layer.backend,
        )
        return self.output(layer, h[..., :width].to(e.dtype)), final_state(h, h_last, lengths)[..., :width]

    def cell(self, layer: Layer, suffix: str) -> GatedCell:
        """Gates are made in every step."""
        weight, bias = _padded(layer, weights_of(layer, suffix))
        rate, angle = _per_step(layer, suffix, state_dtype(weight.dtype))
        layout: Any = dict(memory_format=torch.contiguous_format)
        turn = None if angle is None else torch.polar(torch.ones_like(angle), angle)
        made = weight.T.clone(**layout), None if bias is None else bias.clone(), rate.clone(), turn, _gates(layer)
        return GatedCell(*made, _compiled(layer.backend, *made))

    @torch.no_grad()
    def margin(self, layer: Layer, suffix: str) -> float:
        """The infimum of the smallest rate over all inputs: 0 where logits see the input, which may close any gate."""
        weights, width = weights_of(layer, suffix), layer.hidden_size
        rate = per_unit(layer, modes_of(layer, weights.rate, None).rate)[:width]
        _, *rows = weights.encoder.unflatten(0, (-1, width))
        biases = torch.zeros_like(weights.encoder[:, 0]) if weights.bias is None else weights.bias
        _, *logits = biases.to(rate.dtype).unflatten(0, (-1, width))
        gates = _gates(layer)
        count = 2 if gates.strength == "share" else 1
        sees_input = torch.stack(rows[:count]).ne(0).any(-1).any(0)
        closed = strength(gates, logits[0], logits[-1])
        return float((rate * torch.where(sees_input, 0.0, closed)).min())


def _padded(layer: Layer, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """U and b with a unit, and its logits, beside the single one of an oscillating layer."""
    weight, bias, width = weights.encoder, weights.bias, layer.hidden_size
    if layer.oscillating and width % 2:
        weight = F.pad(weight.unflatten(0, (-1, width)), (0, 0, 0, 1)).flatten(0, 1)
        bias = None if bias is None else F.pad(bias.unflatten(0, (-1, width)), (0, 1)).flatten()
    return weight, bias


def _per_step(layer: Layer, suffix: str, state: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Rates of all units, and angles of pairs, in a step."""
    modes = modes_of(layer, weights_of(layer, suffix).rate, frequency_of(layer, suffix))
    angle = None if modes.frequency is None else (layer.dt * modes.frequency).to(state)
    return per_unit(layer, layer.dt * modes.rate).to(state), angle


def _compiled(backend: str | None, encoder: Tensor, *rest: Any) -> Any:
    """The step of one core, where numba may compute it, and nobody asks for derivatives by coefficients."""
    if backend not in (None, "cpu", "numba") or not INSTALLED["numba"] or encoder.device.type != "cpu":
        return None
    module = implementation("numba", "gated_step")
    if encoder.dtype not in module.DTYPES or observed((encoder, *rest)):
        return None
    return module.GatedStep(encoder, *rest)


def _gates(layer: Layer) -> Gates:
    assert isinstance(layer.gated, str)
    return gates_of(layer.gated)


GATED = Gated()
