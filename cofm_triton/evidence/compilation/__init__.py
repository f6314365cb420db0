"""What the compiler makes of each kernel, for GPUs that need not be there.

Nothing here runs a kernel; times are a model's.
"""
