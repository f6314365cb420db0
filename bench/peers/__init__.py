"""Others who can do the work, one file per peer with a `PEER`: found by `cofm_triton.evidence.benchmark.peers`."""
