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
    raw, pieces = meta(MODES, dtype=dtype), 4
    free, log_dt = meta(MODES - 1, dtype=dtype) if paired else None, raw if learned else None
    layout = mode_coefficients.layout(free, kind, True)
    made = meta(layout.room(MODES, max(4, dtype.itemsize)), dtype=torch.float64)
    _, second = layout.parts(made, MODES, torch.promote_types(dtype, torch.float32))
    first, turn = meta(pieces, MODES * (2 if paired else 1), dtype=dtype), None
    if paired:
        first, turn = (first[:, ::2], first[:, 1::2]) if linear else (first, first)
    alone = (learned and not linear) or dtype.itemsize < 4
    apart = second is None or alone or not mode_coefficients.encodes(free, kind)
    encoder = []
    if not apart:
        encoder = [meta(len(second), MODES, dtype=dtype), meta(len(second), dtype=dtype) if bounded else None]
    mode_coefficients.forward(raw, free, log_dt, made, kind, True, *encoder, *encoder)
    given = second if apart else None
    mode_coefficients.backward(raw, free, log_dt, first, turn, given, made, kind, *encoder, *encoder)


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
            dict(gain="rising", linear=False, parameterization="lru"),
            dict(parameterization="relu"),
            dict(gain="rising", linear=False, paired=False, exact=False, parameterization="relu"),
            dict(gain="normalized", linear=False, exact=False, dtype=torch.float64),
            dict(gain="nothing", linear=False, bounded=True),
            dict(gain="paper", paired=False, exact=False, parameterization="lru"),
        ],
        bytes_per_element=bytes_per_element,
        elements=lambda constants: int(constants["MODES"]),
    ),
)
