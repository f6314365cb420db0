"""The coefficients of an elementwise layer, all at once: what is compiled."""

from __future__ import annotations

import torch

from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.operator import Compilation, Operator
from cofm_triton.ops.mode_coefficients import Kind, fused_coefficients

MODES = 512


def launch(
    gain: str = "normalized", linear: bool = True, paired: bool = True, learned: bool = False, bounded: bool = False,
    exact: bool = True, parameterization: str = "softplus", dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Coefficients and their gradients, with the encoder where a layer is computed at once."""
    from cofm_triton.kernels import mode_coefficients

    kind = Kind(parameterization, exact, linear, bounded, gain, paired and gain == "hold", 1.0, (-3.4, 0.01))
    raw, pairs, pieces = meta(MODES, dtype=dtype), meta(MODES, 2, dtype=dtype), 4
    free, log_dt = meta(MODES - 1, dtype=dtype) if paired else None, raw if learned else None
    shape = (MODES,) if not paired else (MODES, 2) if linear else (2 * MODES,)
    parts = [meta(*shape, dtype=dtype), meta(*shape, dtype=dtype) if paired and not linear else None]
    grads = [meta(pieces, *shape, dtype=dtype), meta(pieces, *shape, dtype=dtype) if paired and not linear else None]
    if paired and linear:
        parts, grads = ([tensors[0][..., 0], tensors[0][..., 1]] for tensors in (parts, grads))
    second = None if gain == "nothing" else pairs if paired else raw
    slopes = meta(mode_coefficients.VARIABLES, mode_coefficients.PARTS, MODES, dtype=torch.float64)
    apart = kind.complex_gain or (learned and not linear) or dtype.itemsize < 4
    if second is None or apart:
        mode_coefficients.forward(raw, free, log_dt, *parts, second, slopes, kind)
        mode_coefficients.backward(raw, free, log_dt, *grads, second, slopes, kind)
    else:
        weight, bias = meta(second.numel(), MODES, dtype=dtype), meta(second.numel(), dtype=dtype) if bounded else None
        mode_coefficients.forward(raw, free, log_dt, *parts, second, slopes, kind, weight, bias, weight, bias)
        mode_coefficients.backward(raw, free, log_dt, *grads, None, slopes, kind, weight, bias, second, weight, bias)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> None:
    """None: what moves is nothing beside a launch."""


OPERATOR = Operator(
    name="mode_coefficients",
    function=fused_coefficients,
    sequences=(),
    compilation=Compilation(
        launch=launch,
        usual=[dict(), dict(linear=False, bounded=True)],
        others=[
            dict(gain="hold", learned=True, parameterization="exp", dtype=torch.float64),
            dict(gain="hold", paired=False, exact=False, parameterization="direct", dtype=torch.bfloat16),
            dict(gain="rising", linear=False, learned=True, parameterization="inverse"),
            dict(gain="rising", linear=False, paired=False, exact=False, parameterization="relu"),
            dict(gain="normalized", linear=False, exact=False, dtype=torch.float64),
            dict(gain="nothing", linear=False, bounded=True),
            dict(gain="paper", paired=False, exact=False, parameterization="lru"),
        ],
        bytes_per_element=bytes_per_element,
        elements=lambda constants: int(constants["MODES"]),
    ),
)
