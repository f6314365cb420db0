"""Resets: where the sequences of a batch are cut, and what the pieces start from.

`resets` (B, T) is True at the first step of an episode: the sequence is cut between t-1 and t, whatever the direction.
Every piece is run alone, from the start state of its row ("h0") or from zero ("zero").
"""

import torch
from torch import Tensor

RESET_TO = ("h0", "zero")


def begins(resets: Tensor, reverse: bool = False) -> Tensor:
    """(B, T): whether a piece begins with step t, in the order of the recurrence.

    A cut at t = 0 has nothing before it: it only takes h0 from a recurrence forwards that resets to zero.

    Example:
        >>> begins(torch.tensor([[True, False, True]]), reverse=True)
        tensor([[False,  True, False]])
    """
    if not reverse:
        return resets
    return torch.cat((resets[:, 1:], torch.zeros_like(resets[:, :1])), 1)


def state_before(t: int, state: Tensor, start: Tensor, begin: Tensor | None, reset_to: str) -> Tensor:
    """The state (B, D) that step t goes on from: `state`, or where a piece begins with it, `start` or zero.

    Args:
        t: the step.
        state: (B, D), after the step before.
        start: (B, D), the state that rows start from.
        begin: what `begins` gives; None: no piece begins.
        reset_to: "h0" or "zero".

    Raises:
        ValueError: `reset_to` is another word.

    Example:
        >>> state_before(0, torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([[True], [False]]), "h0").tolist()
        [[0.0], [1.0]]
    """
    if reset_to not in RESET_TO:
        raise ValueError(f"reset_to must be one of {RESET_TO}, got {reset_to!r}")
    if begin is None:
        return state
    return torch.where(begin[:, t, None], start if reset_to == "h0" else torch.zeros_like(start), state)
