"""Layers: `StableRNN` and what is built of it."""

from cofm_triton.layers.residual import ResidualBlock, ResidualStack
from cofm_triton.layers.stable_rnn import RNNFunctional, StableRNN

__all__ = ["RNNFunctional", "ResidualBlock", "ResidualStack", "StableRNN"]
