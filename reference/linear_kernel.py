"""Impulse response of a diagonal model with linear activation, in closed form.

With decays l_i and gains g_i:

    kappa_s = sum_i g_i c_i U_i l_i^s,   kb_s = sum_i g_i c_i b_i l_i^s,
    y[k] = sum_{s <= k} (kappa_s x[k - s] + kb_s) + d

If units come in pairs, each pair is one complex number, H = h[2k] + i h[2k+1], and U, b, c become complex likewise:

    kappa_s = Re sum_k g_k conj(C_k) U_k l_k^s,   kb_s = Re sum_k g_k conj(C_k) B_k l_k^s
"""

import torch
from torch import Tensor

from .model import Dynamics, Parameters, in_pairs


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
    read_out, encoder = params["readout.weight"], params["rnn.weight_ih_l0"]
    bias = params.get("rnn.bias_l0", encoder.new_zeros(len(encoder)))
    if dynamics.oscillating:
        read_out, encoder, bias = in_pairs(read_out).conj(), in_pairs(encoder.T).T, in_pairs(bias)
    kappa = torch.einsum("pi,ij,is->pjs", read_out, encoder, modes)
    kb = torch.einsum("pi,i,is->ps", read_out, bias, modes)
    return (kappa.real, kb.real) if dynamics.oscillating else (kappa, kb)
