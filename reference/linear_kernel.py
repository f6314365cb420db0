"""Impulse response of a diagonal model with linear activation, in closed form.

With decays l_i and gains g_i:

    kappa_s = sum_i g_i c_i U_i l_i^s,   kb_s = sum_i g_i c_i b_i l_i^s,
    y[k] = sum_{s <= k} (kappa_s x[k - s] + kb_s) + d
"""

import torch
from torch import Tensor

from .model import Dynamics, Parameters


def linear_kernel(params: Parameters, length: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Responses to the input and to the bias.

    Args:
        params: see `model`.
        length: T.
        dynamics: the model's options, of a linear activation.

    Returns:
        kappa (p, d, T) and kb (p, T); the read-out bias is in neither.

    Raises:
        ValueError: the activation is not linear, so no kernel describes the model.
    """
    if dynamics.nonlinearity != "linear":
        raise ValueError(f"nonlinearity must be 'linear', got {dynamics.nonlinearity!r}")
    decay, gain = dynamics.decay(params), dynamics.gain(params)
    powers = decay[:, None] ** torch.arange(length, device=decay.device)
    modes = gain[:, None] * powers
    read_out = params["readout.weight"]
    kappa = torch.einsum("pi,ij,is->pjs", read_out, params["rnn.weight_ih_l0"], modes)
    if "rnn.bias_l0" not in params:
        return kappa, kappa.new_zeros(len(read_out), length)
    return kappa, torch.einsum("pi,i,is->ps", read_out, params["rnn.bias_l0"], modes)
