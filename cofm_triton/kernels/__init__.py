"""Raw Triton kernels, one file per operator: no torch, no checks, no derivatives."""
