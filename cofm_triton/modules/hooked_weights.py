"""Weights that PyTorch makes anew before each call of a module: old `weight_norm`, old `spectral_norm`, `prune`.

Those of `torch.nn.utils.parametrize` are made whenever they are looked at. What these hooks make is a plain attribute
instead, and stays as the last call left it however its parameters change.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def remake_weights(module: nn.Module) -> None:
    """Do what a call of the module does to them, the step of the power iteration left out.

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
