"""The definitions: pure PyTorch, slow and readable, any dtype, differentiable by autograd.

One idea per file, one definition per idea, with its equation. Everything fast in the library is tested against these
functions. Nothing here imports the library.

`targets`, `quadratic_form` and `verdict` are used as modules (`targets.rho`, `verdict.decide`); all other names are
re-exported here.
"""

from . import quadratic_form, targets, verdict
from .cayley import cayley, cayley_inverse
from .dense_rnn import dense_rnn
from .discretization import (
    DISCRETIZATIONS,
    complement,
    effective_matrix,
    effective_rate,
    linear_decay,
    linear_gain,
    matrix_gain,
    phi,
)
from .gated_rnn import GATES, gate_coefficients, gated_rnn
from .linear_kernel import linear_kernel
from .linear_scan import linear_scan
from .loss import mse, sup_error, tail_weights, temporal_weights, temporally_weighted_mse
from .memory import (
    MemoryFunction,
    candidates,
    differences,
    increments,
    linear_memory,
    memory_function,
    sign_vectors,
)
from .model import Dynamics, encode, hidden, read_out, rnn_functional
from .nonlinearity import NONLINEARITIES, Nonlinearity, nonlinearity
from .oscillation import (
    bounded_angle,
    contracting_angle,
    contracts,
    effective_pair,
    frequency_unit,
    mode_decay,
    mode_gain,
    normalized_gain,
    pair_matrix,
    turning_frequency,
)
from .packing import spans
from .paper_cells import congruence, diagonal_cell, lru_cell, rotated_cell
from .parameterization import (
    PARAMETERIZATIONS,
    Parameterization,
    lru_normalization,
    parameterization,
)
from .perturbation import (
    PerturbationError,
    normalise,
    paper_radii,
    perturb,
    perturbation_error,
    random_directions,
    slow_direction,
)
from .precision import output_dtype, state_dtype
from .resets import RESET_TO
from .rnn_scan import rnn_scan

__all__ = [
    "DISCRETIZATIONS",
    "GATES",
    "NONLINEARITIES",
    "PARAMETERIZATIONS",
    "RESET_TO",
    "Dynamics",
    "MemoryFunction",
    "Nonlinearity",
    "Parameterization",
    "PerturbationError",
    "bounded_angle",
    "candidates",
    "cayley",
    "cayley_inverse",
    "complement",
    "congruence",
    "contracting_angle",
    "contracts",
    "dense_rnn",
    "diagonal_cell",
    "differences",
    "effective_matrix",
    "effective_pair",
    "effective_rate",
    "encode",
    "frequency_unit",
    "gate_coefficients",
    "gated_rnn",
    "hidden",
    "increments",
    "linear_decay",
    "linear_gain",
    "linear_kernel",
    "linear_memory",
    "linear_scan",
    "lru_cell",
    "lru_normalization",
    "matrix_gain",
    "memory_function",
    "mode_decay",
    "mode_gain",
    "mse",
    "nonlinearity",
    "normalise",
    "normalized_gain",
    "output_dtype",
    "pair_matrix",
    "paper_radii",
    "parameterization",
    "perturb",
    "perturbation_error",
    "phi",
    "quadratic_form",
    "random_directions",
    "read_out",
    "rnn_functional",
    "rnn_scan",
    "rotated_cell",
    "sign_vectors",
    "slow_direction",
    "spans",
    "state_dtype",
    "sup_error",
    "tail_weights",
    "targets",
    "temporal_weights",
    "temporally_weighted_mse",
    "turning_frequency",
    "verdict",
]
