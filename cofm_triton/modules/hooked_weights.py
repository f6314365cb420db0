"""Weights that a hook computes before each call of a module: old `weight_norm`, old `spectral_norm`, `prune`.

Between calls these weights are out of date: the hook stored them as plain attributes, and a change of their parameters
does not reach them. (Weights of `torch.nn.utils.parametrize` are computed at every access and need no help.)
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def remake_weights(module: nn.Module) -> None:
    """Compute these weights as a call of the module would, without a step of the power iteration.

    Example:
        >>> import torch
        >>> linear = nn.Linear(1, 1)
        >>> _ = torch.nn.utils.prune.identity(linear, "weight")
        >>> _ = nn.init.ones_(linear.weight_orig)
        >>> remake_weights(linear)
        >>> linear.weight.item()
        1.0
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
        elif isinstance(hook, (BasePruningMethod, WeightNorm)):
            hook(module, ())
