"""How far a result may lie from the exact one: bounds derived from the recurrence itself, not chosen.

Let u be the unit roundoff of the state. One step of `h[t] = a h[t-1] + x[t]` rounds the product and the sum, so the
error obeys the recurrence of the states, driven by what a step rounds:

    e[t] <= |a| e[t-1] + 2 u H[t],   H[t] = |a| H[t-1] + |x[t]|,   H[-1] = |h0|

With H, the states of the magnitudes, in place of |h|, this holds for every order of evaluation: a term `a^k x` takes
two roundings per step on its way, whether it goes step by step, by products of decays, or from block to block. Blocked
orders add a few roundings per level of blocks (a power of the decay, the carry's own product and sum), `LEVELS` of
them. A complex product is off by sqrt(5) u and counts as three roundings.

The adjoint is a scan of the same kind, so its bound is the adjoint of the bound: PyTorch differentiates the recurrence
of magnitudes and that of errors, and the derivatives by |x|, |a| and |h0| bound the errors of the gradients. A gradient
that sums N products adds N u times the sum of their magnitudes, the worst of all orders of summation.

The nonlinear recurrence has the error factor `|1 - dt rate s|`, s the slope of act between the exact and the computed
z. A first bound takes s anywhere among act's slopes; with it, s is known to the error of z times |act''|, which gives
the final one. The adjoint multiplies by `J = 1 - dt rate act'(z)`, with act' as uncertain as that. Hardtanh and relu
have jumps in act': wherever the error of z reaches one, any slope counts as possible. Rates made of raw parameters are
off by `RATE_ROUNDINGS`, which z and J add to their own, and so is the factor from rate to parameter. Nothing is masked;
the bound grows where data leave the gradient undecided, so test data should keep away from there.

Pairs of units have a matrix J[t] = I - dt S[t] A for each pair and step in place of the factor. Its entries' magnitudes
would grow where the pair merely turns, so that here every error is followed along the exact products of matrices:

    e[t] <= sum_k |J[t] ... J[k+1]| made[k]

with what step k rounds, made[k], in which the uncertainty of its slopes is. Coefficients made of rates and frequencies
are off by `RATE_ROUNDINGS` of themselves and of what their factors' arguments, dt r and dt w, make of a rounding.

The dense recurrence has the matrix `|I - dt diag(s) W|` in place of that factor, and a product of D terms rounds D + 2
times on the way to z, whatever the order of its terms.

The fused read-out forms its drive with d + 1 roundings more, and sums D outputs after the recurrence; what it pulls
back, `act_out'(h) c^T g`, enters the adjoint with the errors of h in act_out'. A sweep's errors have those of its
outputs, and the memory recursion obeys the error recurrence of z in place of h.

Last, u of the stored dtype times the value for the final rounding. All bounds are of first order in u, enlarged by
`SECOND_ORDER`; they include the error of the exact value itself, which is computed in float64 by the definitions.
Source of the method: running error analysis, N. Higham, "Accuracy and Stability of Numerical Algorithms", 3.3.
"""

from cofm_triton.evidence.tolerance.bound import RATE_ROUNDINGS, Bound, unit_roundoff
from cofm_triton.evidence.tolerance.dense_rnn import dense_rnn_bounds
from cofm_triton.evidence.tolerance.gated_rnn import gated_rnn_bounds
from cofm_triton.evidence.tolerance.linear_scan import linear_scan_bounds
from cofm_triton.evidence.tolerance.memory_increment import increment_bounds
from cofm_triton.evidence.tolerance.paired_rnn_scan import paired_rnn_scan_bounds
from cofm_triton.evidence.tolerance.perturbation import sweep_errors_bounds, sweep_gradients_bounds
from cofm_triton.evidence.tolerance.rnn_readout import rnn_readout_bounds
from cofm_triton.evidence.tolerance.rnn_scan import rnn_scan_bounds

__all__ = [
    "RATE_ROUNDINGS",
    "Bound",
    "dense_rnn_bounds",
    "gated_rnn_bounds",
    "increment_bounds",
    "linear_scan_bounds",
    "paired_rnn_scan_bounds",
    "rnn_readout_bounds",
    "rnn_scan_bounds",
    "sweep_errors_bounds",
    "sweep_gradients_bounds",
    "unit_roundoff",
]
