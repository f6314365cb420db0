"""What a GPU can do, from its vendor's documents: the limits that occupancy and the roofline are computed from.

Memory bandwidth and arithmetic are the data sheets' peaks. `instructions` is how many thread-instructions a second the
schedulers can issue: NVIDIA's start 4 warps of 32 per cycle and multiprocessor, CDNA's 4 SIMDs of 16 lanes.

    A100 SXM 80 GB   NVIDIA A100 data sheet: 2,039 GB/s; 108 multiprocessors at 1.41 GHz (its 19.5 TFLOPS FP32)
    H100 SXM         NVIDIA H100 data sheet: 3.35 TB/s; 132 at 1.98 GHz (its 67 TFLOPS FP32 = 132 x 128 x 2 x 1.98 GHz)
    B200 (HGX)       NVIDIA Blackwell architecture technical brief: 8 TB/s; 80 TFLOPS FP32, 2 per lane and cycle
    MI300X           AMD Instinct MI300X data sheet: 5.3 TB/s; 304 compute units at 2.1 GHz

Occupancy: CUDA C++ Programming Guide, "Compute Capabilities" (8.0, 9.0, 10.0: 64 warps and 32 blocks per
multiprocessor, 65,536 registers in units of 256 per warp); AMD CDNA 3 instruction set guide (512 vector registers per
lane and SIMD in units of 8, 8 waves per SIMD).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU and the target its kernels are compiled for.

    Attributes:
        name: as its vendor sells it.
        bandwidth: bytes per second to and from its memory.
        instructions: thread-instructions per second.
        lanes: threads of a warp.
        warps: most warps per multiprocessor.
        blocks: most programs per multiprocessor.
        registers: per multiprocessor, 32 bits each.
        granularity: registers of a warp are given out in multiples of this many.
        shared: bytes of shared memory per multiprocessor.
    """

    name: str
    bandwidth: float
    instructions: float
    lanes: int
    warps: int
    blocks: int
    registers: int
    granularity: int
    shared: int

    def occupancy(self, registers: int, num_warps: int, shared: int) -> float:
        """Share of the warps of a multiprocessor that can be resident.

        Args:
            registers: per thread.
            num_warps: of a program.
            shared: bytes of shared memory of a program.

        Example:
            >>> DEVICES["sm_90"].occupancy(registers=105, num_warps=1, shared=0)
            0.28125
        """
        per_warp = -(-max(registers, 1) * self.lanes // self.granularity) * self.granularity
        blocks = min(self.blocks, self.warps // num_warps, self.registers // (per_warp * num_warps))
        if shared:
            blocks = min(blocks, self.shared // shared)
        return blocks * num_warps / self.warps

    def issue_share(self, instructions: float, bytes_moved: float) -> float:
        """Time to issue an element's instructions over the time to move its bytes; below 1 memory is the limit.

        Example:
            >>> round(DEVICES["sm_90"].issue_share(5.0, 8.0), 3)
            0.063
        """
        return (instructions / self.instructions) / (bytes_moved / self.bandwidth)

    def roof(self, instructions: float, bytes_moved: float) -> float:
        """Elements per second that neither memory nor the schedulers let a kernel exceed.

        Example:
            >>> f"{DEVICES['sm_90'].roof(5.0, 8.0):.3g}"
            '4.19e+11'
        """
        return min(self.bandwidth / bytes_moved, self.instructions / instructions)


_KIB = 2**10
DEVICES: dict[str, Device] = {
    "sm_80": Device("A100", 2.039e12, 108 * 128 * 1.41e9, 32, 64, 32, 2**16, 256, 164 * _KIB),
    "sm_90": Device("H100", 3.35e12, 132 * 128 * 1.98e9, 32, 64, 32, 2**16, 256, 228 * _KIB),
    "sm_100": Device("B200", 8e12, 80e12 / 2, 32, 64, 32, 2**16, 256, 228 * _KIB),
    "gfx942": Device("MI300X", 5.3e12, 304 * 64 * 2.1e9, 64, 32, 32, 4 * 512 * 64, 8 * 64, 64 * _KIB),
}
