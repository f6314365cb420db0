"""Weight decay for all parameters but those of the recurrence.

Weight decay pulls a parameter to 0. For a raw rate w that is not neutral: f(0) is 1 for "exp" and 0.7 for "softplus", a
unit that forgets within a step or two. With AdamW's decay of 0.01 to 0.1, a slow unit loses its memory within a few
thousand steps, whatever the data say. Frequencies, weight_hh and the raw matrix of a basis make units turn, and at 0
nothing turns; a free basis P near 0 shrinks W = P^T diag(rate) P. So no parameter of the recurrence is decayed. Neither
are biases and the gains of norms, as usual.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cofm_triton.support.scalars import check_not_negative

# Of `StableRNN`: raw rates and what turns; with what parametrisations and old-style hooks make of the names.
_RECURRENT = re.compile(r"(parametrizations\.)?(rate|frequency|log_dt|basis|weight_hh)_l\d")


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Groups of parameters for `torch.optim`, with weight decay and without.

    Without decay: the recurrent parameters of every `StableRNN`; parameters that other modules name in a method
    `no_weight_decay()` (timm's convention) or mark with `_no_weight_decay` (mamba's); biases, gains of norms, and other
    parameters of less than two dimensions.

    Args:
        model: any module, with cofm layers anywhere inside.
        weight_decay: of the first group, >= 0.

    Returns:
        Two groups, `{"params": [...], "weight_decay": ...}`: with decay, without decay. Either may be empty. Every
        trainable parameter is in one of them, once, in the order of `named_parameters`.

    Raises:
        TypeError: `model` is no module, or `weight_decay` no number.
        ValueError: `weight_decay` is negative or not finite, or the model has nothing to train.

    Example:
        >>> import cofm_triton as cofm
        >>> import torch
        >>> model = cofm.RNNFunctional(1, 4)
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.1), lr=1e-3)
        >>> [len(group["params"]) for group in optimizer.param_groups]
        [2, 3]

    Source: as S4 and LRU train (arXiv 2111.00396, 2303.06349).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    weight_decay = check_not_negative("weight_decay", weight_decay)
    without = _without_decay(model)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (kept if id(parameter) in without else decayed).append(parameter)
    if not decayed and not kept:
        raise ValueError(f"model must have parameters to train, {type(model).__name__} has none")
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def _without_decay(model: nn.Module) -> set[int]:
    """Identities of the parameters without decay; of a tied one, one name suffices."""
    found: set[int] = set()
    for module in model.modules():
        named = dict(module.named_parameters(remove_duplicate=False))
        if callable(spare := getattr(module, "no_weight_decay", None)):
            found |= {id(named[name]) for name in spare() if name in named}
        is_norm = isinstance(module, (nn.LayerNorm, nn.RMSNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or parameter.dim() < 2 or "bias" in name or getattr(parameter, "_no_weight_decay", False):
                found.add(id(parameter))
    return found


class UndecayedRecurrence(nn.Module):
    """A layer that tells optimiser helpers which of its parameters have no weight decay.

    It has the method `no_weight_decay` (timm's) and marks its parameters with `_no_weight_decay` (mamba's) and `_optim`
    (S4's). The marks survive `copy.deepcopy`, loading with `assign=True`, and leaving the meta device.
    """

    def no_weight_decay(self) -> set[str]:
        """Names of the recurrent parameters, which weight decay would move (timm's convention)."""
        return {name for name, _ in self.named_parameters() if _RECURRENT.match(name)}

    def _mark(self) -> None:
        for name in self.no_weight_decay():
            parameter: Any = self.get_parameter(name)
            parameter._no_weight_decay = True
            parameter._optim = {"weight_decay": 0.0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._mark()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        applied = super()._apply(fn, recurse)
        self._mark()
        return applied

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._mark()
