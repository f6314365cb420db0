"""Sequences that no process holds: every rank of a group has a slice of time (`functional.py`)."""

from cofm_triton.distributed.channels import ChannelParallel
from cofm_triton.distributed.functional import dense_rnn, gated_rnn, linear_scan, rnn_scan
from cofm_triton.distributed.layers import TimeShardedRNN, shard_time

__all__ = ["ChannelParallel", "TimeShardedRNN", "dense_rnn", "gated_rnn", "linear_scan", "rnn_scan", "shard_time"]
