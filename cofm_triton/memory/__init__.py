"""How models forget: memory functions, of one model and of moved ones, and Lyapunov exponents of their recurrences."""

from typing import TYPE_CHECKING

from cofm_triton.support.lazy import lazy

if TYPE_CHECKING:
    from cofm_triton.memory.contraction import contraction_bound
    from cofm_triton.memory.function import MemoryFunction, memory_function, plot_memory
    from cofm_triton.memory.lyapunov import LyapunovExponent, lyapunov_exponent, warm_up_steps
    from cofm_triton.memory.sweep import MemorySweep, memory_sweep
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "contraction": ["contraction_bound"],
            "function": ["MemoryFunction", "memory_function", "plot_memory"],
            "lyapunov": ["LyapunovExponent", "lyapunov_exponent", "warm_up_steps"],
            "sweep": ["MemorySweep", "memory_sweep"],
        },
    )

__all__ = [
    "LyapunovExponent",
    "MemoryFunction",
    "MemorySweep",
    "contraction_bound",
    "lyapunov_exponent",
    "memory_function",
    "memory_sweep",
    "plot_memory",
    "warm_up_steps",
]
