"""The operators as PyTorch sees them: registration, derivatives, choice of backend, traffic models.

Importing this package registers all of them.
"""

from cofm_triton.ops import dense_rnn, gated_rnn, linear_scan, paired_rnn_scan, rnn_readout, rnn_scan

__all__ = ["dense_rnn", "gated_rnn", "linear_scan", "paired_rnn_scan", "rnn_readout", "rnn_scan"]
