"""Layers: `StableRNN` and what is built of it."""

from typing import TYPE_CHECKING

from cofm_triton.support.lazy import lazy

if TYPE_CHECKING:
    from cofm_triton.layers.residual import ResidualBlock, ResidualStack
    from cofm_triton.layers.rnn_functional import RNNFunctional
    from cofm_triton.layers.stable_rnn import StableRNN
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "residual": ["ResidualBlock", "ResidualStack"],
            "rnn_functional": ["RNNFunctional"],
            "stable_rnn": ["StableRNN"],
        },
    )

__all__ = ["RNNFunctional", "ResidualBlock", "ResidualStack", "StableRNN"]
