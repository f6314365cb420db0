"""Memory functions: how fast the response to a Heaviside input settles, for one model and for moved ones."""

from cofm_triton.memory.function import MemoryFunction, memory_function
from cofm_triton.memory.sweep import MemorySweep, memory_sweep

__all__ = ["MemoryFunction", "MemorySweep", "memory_function", "memory_sweep"]
