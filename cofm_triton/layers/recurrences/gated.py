"""Units, or pairs of units, whose rates depend on the input: "ssm" with gates.

    h' = decay R h + gain e,   decay = exp(-dt f(w) s),   s > 0 and gain from logits of the input (`step/gates.py`)

The rows of U and b are those of e, then of the rate's logits, then, where there are any, of the input's: one product,
as in `torch.nn.GRU`. Each unit has gates of its own; a pair turns by the angle dt * frequency in every step. Decays lie
in (0, 1] and turns keep sizes, so that no weights and no inputs make states grow by themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.functional import gated_rnn
from cofm_triton.layers.padding import drive, final_state, initial_state
from cofm_triton.layers.recurrences.contract import Layer, weights_of
from cofm_triton.layers.recurrences.elementwise import Elementwise, frequency_of, per_unit
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.coefficients import modes_of
from cofm_triton.step.gates import Gates, gates_of, strength


class Gated(Elementwise):
    """A row of `step/gates.py`, which `layer.gated` names."""

    def __init__(self) -> None:
        super().__init__(acts_on_output=True)

    def encoded(self, layer: Layer) -> int:
        """The input e of a unit and its logits."""
        return 3 if _gates(layer).has_input_logit else 2

    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One `gated_rnn`; a single unit of an oscillating layer has a partner at zero, which no one else sees."""
        weights, width = weights_of(layer, suffix), layer.hidden_size
        modes = modes_of(layer, weights.rate, frequency_of(layer, suffix))
        weight, bias = weights.encoder.unflatten(0, (-1, width)), weights.bias
        bias = None if bias is None else bias.unflatten(0, (-1, width))
        if layer.oscillating and width % 2:
            weight, bias = F.pad(weight, (0, 0, 0, 1)), None if bias is None else F.pad(bias, (0, 1))
            h0 = None if h0 is None else F.pad(h0, (0, 1))
        e = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        values, p, *q = drive(e, lengths).chunk(self.encoded(layer), -1)
        state = state_dtype(e.dtype)
        angle = None if modes.frequency is None else (layer.dt * modes.frequency).to(state)
        h, h_last = gated_rnn(
            values,
            per_unit(layer, layer.dt * modes.rate).to(state),
            p,
            q[0] if q else None,
            initial_state(h0, values),
            gates=_gates(layer).name,
            angle=angle,
            backend=layer.backend,
        )
        return h[..., :width].to(e.dtype), final_state(h, h_last, lengths)[..., :width]

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


def _gates(layer: Layer) -> Gates:
    assert isinstance(layer.gated, str)
    return gates_of(layer.gated)


GATED = Gated()
