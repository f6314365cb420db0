"""What the compiler makes of each kernel, for GPUs that need not be there.

An operator is one file in `operators/`, found by itself. Nothing here runs a kernel; times are a model's.
"""
