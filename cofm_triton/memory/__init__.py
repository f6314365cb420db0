"""Memory functions: how fast the response to a Heaviside input settles, for one model and for moved ones."""

from typing import TYPE_CHECKING

from cofm_triton.support.lazy import lazy

if TYPE_CHECKING:
    from cofm_triton.memory.function import MemoryFunction, memory_function, plot_memory
    from cofm_triton.memory.sweep import MemorySweep, memory_sweep
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {"function": ["MemoryFunction", "memory_function", "plot_memory"], "sweep": ["MemorySweep", "memory_sweep"]},
    )

__all__ = ["MemoryFunction", "MemorySweep", "memory_function", "memory_sweep", "plot_memory"]
