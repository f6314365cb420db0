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
    """Coefficients, and their gradients; the gain inside an encoder."""
    from cofm_triton.kernels import mode_coefficients, mode_coefficients_gain

    kind = Kind(parameterization, exact, linear, bounded, gain, paired and gain == "hold", 1.0, (-3.4, 0.01))
    raw, parts = meta(MODES, dtype=dtype), meta(MODES, 2, dtype=dtype)
    free, log_dt = meta(MODES - 1, dtype=dtype) if paired else None, raw if learned else None
    rows = meta(2, 2 * MODES, dtype=dtype)
    first, second = (
        (raw if not paired else parts if linear else rows),
        (None if gain == "nothing" else parts if paired else raw),
    )
    slopes = meta(mode_coefficients.VARIABLES, mode_coefficients.PARTS, MODES, dtype=torch.float64)
    mode_coefficients.forward(raw, free, log_dt, first, second, slopes, kind)
    mode_coefficients.backward(raw, free, log_dt, first, second, slopes, kind)
    if second is not None and not kind.complex_gain:
        weight, bias = meta(second.numel(), MODES, dtype=dtype), meta(second.numel(), dtype=dtype) if bounded else None
        mode_coefficients_gain.forward(weight, bias, second)
        mode_coefficients_gain.backward(weight, bias, weight, bias, second)


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
        elements=lambda constants: int(constants["BLOCK"]),
    ),
)
