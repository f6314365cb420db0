"""Gates of linear recurrences: one row each, which every backend reads.

    decay = exp(-rate * s)      s: strength of the gates, from logits p (of the rate) and q (of the input)

    strength    "sigmoid"     sigmoid(p)
                "softplus"    softplus(p)
                "share"       softplus(softplus(-p) - softplus(-q)), -log(f / (f + i)) of f = sigmoid(p), i = sigmoid(q)
    gain        "variance"    sqrt(1 - decay^2) sigmoid(q), 1 - decay^2 at least the smallest normal number
                "complement"  1 - decay
                "strength"    s

Strengths are positive: decays stay in (0, 1] for every weight and input. What is near 1 keeps its distance from it:
softplus by log1p, 1 - decay and 1 - decay^2 by expm1 or as (1 - decay) (1 + decay).

Source: arXiv 2402.19427, eq 1-4; arXiv 2410.01201, section 3; arXiv 2312.00752, section 3.2. Defined in
`reference/gated_rnn.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cofm_triton.step.discretization import complement
from cofm_triton.support.scalars import check_choice


class Gates(NamedTuple):
    """One row: which strength, which gain, and whether there are logits of the input."""

    name: str
    strength: str
    gain: str

    @property
    def has_input_logit(self) -> bool:
        """Whether q counts."""
        return self.strength == "share" or self.gain == "variance"


_TABLE = {
    row.name: row
    for row in (
        Gates("rg_lru", "sigmoid", "variance"),
        Gates("mingru", "softplus", "complement"),
        Gates("minlstm", "share", "complement"),
        Gates("s6", "softplus", "strength"),
    )
}

GATES = tuple(_TABLE)


def gates_of(name: str) -> Gates:
    """Look up a row, one of `GATES`.

    Raises:
        ValueError: unknown name.

    Example:
        >>> gates_of("mingru").has_input_logit
        False
    """
    check_choice("gates", name, GATES)
    return _TABLE[name]


def strength(gates: Gates, p: Tensor, q: Tensor | None) -> Tensor:
    """s, like p; differentiable to any order."""
    if gates.strength == "sigmoid":
        return _sigmoid(p)
    if gates.strength == "softplus":
        return _softplus(p)
    assert q is not None
    return _softplus(_softplus(-p) - _softplus(-q))


def coefficients(gates: Gates, rate: Tensor, p: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(decay, gain)`, like p; differentiable to any order."""
    s = strength(gates, p, q)
    decay = torch.exp(-rate * s)
    if gates.gain == "strength":
        return decay, s
    if gates.gain == "complement":
        return decay, complement(rate * s)
    assert q is not None
    return decay, _normalization(rate * s) * _sigmoid(q)


class Gradients(NamedTuple):
    """Of a loss by p, q (None where it does not count) and, at every step, the rate."""

    rate_logit: Tensor
    input_logit: Tensor | None
    rate: Tensor


def gradients(
    gates: Gates, rate: Tensor, p: Tensor, q: Tensor | None, by_decay: Tensor, by_gain: Tensor
) -> Gradients:  # fmt: skip
    """From gradients by `coefficients`: what backends write out as well.

    Args:
        gates: the row.
        rate: (D,).
        p: (..., D).
        q: like p, or None.
        by_decay: gradient by the decay, like p.
        by_gain: gradient by the gain, like p.
    """
    s = strength(gates, p, q)
    decay = torch.exp(-rate * s)
    by_exponent, by_strength, by_q = -decay * by_decay, 0.0 * s, None
    if gates.gain == "strength":
        by_strength = by_gain
    elif gates.gain == "complement":
        by_exponent = by_exponent + decay * by_gain
    else:
        assert q is not None
        size, share = _normalization(rate * s), torch.sigmoid(q)
        by_exponent = by_exponent + by_gain * share * (decay * decay / size)
        by_q = by_gain * size * share * torch.sigmoid(-q)
    by_strength = by_strength + rate * by_exponent
    if gates.strength == "share":
        assert q is not None
        inner = by_strength * torch.sigmoid(_softplus(-p) - _softplus(-q))
        return Gradients(-inner * torch.sigmoid(-p), inner * torch.sigmoid(-q), s * by_exponent)
    slope = s * torch.sigmoid(-p) if gates.strength == "sigmoid" else torch.sigmoid(p)
    return Gradients(by_strength * slope, by_q, s * by_exponent)


def _normalization(exponent: Tensor) -> Tensor:
    """sqrt(1 - decay^2), never 0: there a gradient would be 0 times infinity."""
    square, tiny = complement(2 * exponent), torch.finfo(exponent.dtype).tiny
    return torch.where(square < tiny, tiny, square).sqrt()


def _sigmoid(z: Tensor) -> Tensor:
    """By exp: the derivative of `torch.sigmoid`, y (1 - y), cancels where y is near 1."""
    return torch.exp(-_softplus(-z))


def _softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, torch.zeros_like(z))
