"""The nonlinearities and their derivatives on Triton values: the bodies of the rows in `step/activations`.

`act(z, NONLINEARITY)` maps the pre-activation z to u = act(z); `act_derivative(z, u, scale, NONLINEARITY)` gives
scale * act'(z), with PyTorch's subgradient at the kinks; `excess(z, u, NONLINEARITY)` gives z - u, accurate relative to
itself. NaN propagates through each of them, as it does in PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from cofm_triton.kernels.by_name import chosen, jit
from cofm_triton.step.activations import NONLINEARITIES, properties

_BODIES = {name: properties(name).triton(jit, tl) for name in NONLINEARITIES}

act = chosen("act", "z", "NONLINEARITY", {name: row.act for name, row in _BODIES.items()})
act_derivative = chosen(
    "act_derivative", "z, u, scale", "NONLINEARITY", {name: row.slope for name, row in _BODIES.items()}
)
excess = chosen("excess", "z, u", "NONLINEARITY", {name: row.excess for name, row in _BODIES.items()})
tanh = _BODIES["tanh"].act
