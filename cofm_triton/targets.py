"""Target functionals with known memory, and data made from them.

    H_t(x) = int_0^inf rho(s) x(t - s) ds,   in discrete time   y[k] = sum_s rho(s dt) x[k - s]

The memory function of such a target is M(t) = |rho(t)| (arXiv 2305.19190, Definition 3.1): how fast rho decays is how
fast a model may forget. The constants are those of the paper's code, which differ from those in its text.

    name       rho(s)                       decay
    exp        e^-s                         exponential, rate 1
    pol        (1 + 0.1 s)^-1.1             polynomial, exponent 1.1
    shift      1 for 9 < s < 11, else 0     compact (a pure delay)
    twoparts   e^-s + e^-((s - 9)^2)        exponential, rate 1
    airy       Ai(s - 6)                    exponential, faster than any rate
    sin        sin s                        none
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.support.scalars import check_choice, check_int, check_number
from cofm_triton.support.tensors import check_real_tensor

INPUTS = ("white", "cumsum")

# Up to so many steps the convolution is a plain sum: exact zeros, errors relative to its own terms. Longer ones take
# Fourier transforms, whose errors are relative to the largest output.
_LONGEST_DIRECT = 512


@dataclass(frozen=True)
class Target:
    """A linear, causal, time-homogeneous functional, given by its impulse response.

    Attributes:
        name: the name used throughout the library.
        formula: rho(s) in plain text.
        decay: the class of its memory: "exponential", "polynomial", "compact" or "none".
        decay_rate: the supremum of beta with e^(beta s) rho(s) -> 0 (for decay "polynomial": the
            exponent); infinite where memory decays faster than every exponential, 0 for "none".

    Example:
        >>> exp(torch.ones(1, 2, 1, dtype=torch.float64)).flatten().tolist()
        [1.0, 1.3678794411714423]
    """

    name: str
    formula: str
    decay: str
    decay_rate: float
    _rho: Callable[[Tensor], Tensor]

    def rho(self, s: Tensor) -> Tensor:
        """Impulse response at the time s, 0 for s < 0: the functional is causal.

        Args:
            s: time since the impulse, any shape; float64, float32, or 16-bit (float32 inside).

        Returns:
            The shape and dtype of `s`.

        Raises:
            TypeError: `s` is not a real floating-point tensor.
        """
        check_real_tensor("s", s)
        wide = s.to(torch.promote_types(s.dtype, torch.float32))
        value = self._rho(wide.clamp(min=0))  # the unused branch must not overflow
        return torch.where(wide < 0, torch.zeros_like(value), value).to(s.dtype)

    def memory(self, t: Tensor) -> Tensor:
        """The memory function M(t) = |rho(t)|; arguments and errors of `rho`."""
        return self.rho(t).abs()

    def kernel(self, length: int, *, dt: float = 1.0, device: torch.device | str | None = None) -> Tensor:
        """The sampled impulse response rho(s dt), s = 0..T-1.

        Args:
            length: T >= 0.
            dt: step, time, > 0.
            device: of the result.

        Returns:
            (T,) float64.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of range.
        """
        length, dt = check_int("length", length), check_number("dt", dt)
        return self.rho(torch.arange(length, dtype=torch.float64, device=device) * dt)

    def __call__(self, inputs: Tensor, *, dt: float = 1.0) -> Tensor:
        """y[k] = sum_{s <= k} rho(s dt) x[k - s], computed in float64.

        Args:
            inputs: x, (N, T, d) floating point; every channel is filtered by itself.
            dt: step of the sampling, time, > 0.

        Returns:
            The shape and dtype of `inputs`.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: `inputs` is not 3-dimensional, or `dt` not positive and finite.
        """
        check_real_tensor("inputs", inputs)
        if inputs.dim() != 3:
            raise ValueError(f"inputs must have the shape (N, T, d), got {tuple(inputs.shape)}")
        kernel = self.kernel(inputs.shape[1], dt=dt, device=inputs.device)
        return causal_convolution(kernel, inputs.double()).to(inputs.dtype)


def causal_convolution(kernel: Tensor, inputs: Tensor) -> Tensor:
    """y[k] = sum_{s <= k} kernel[s] x[k - s], each channel by itself.

    A matrix product with the lower triangular Toeplitz matrix for short sequences, Fourier
    transforms for long ones.

    Args:
        kernel: (T,) float64.
        inputs: x, (N, T, d) float64.

    Returns:
        (N, T, d) float64.

    Example:
        >>> x = torch.ones(1, 2, 1, dtype=torch.float64)
        >>> causal_convolution(torch.tensor([1.0, 0.5], dtype=torch.float64), x).flatten().tolist()
        [1.0, 1.5]
    """
    length = inputs.shape[1]
    if length <= _LONGEST_DIRECT:
        # Time last, so that all sequences form one matrix, and the product one GEMM.
        return (inputs.mT @ _toeplitz(kernel).mT).mT.contiguous()
    padded = 2 ** math.ceil(math.log2(2 * length))
    spectrum = torch.fft.rfft(kernel, padded)[:, None] * torch.fft.rfft(inputs, padded, dim=1)
    return torch.fft.irfft(spectrum, padded, dim=1)[:, :length].contiguous()


def _toeplitz(kernel: Tensor) -> Tensor:
    """(T, T), entry [k, s] = kernel[k - s], 0 above the diagonal."""
    steps = torch.arange(len(kernel), device=kernel.device)
    lag = steps[:, None] - steps
    return torch.where(lag >= 0, kernel[lag.clamp(min=0)], torch.zeros_like(kernel[:1]))


def _exp(s: Tensor) -> Tensor:
    return torch.exp(-s)


def _pol(s: Tensor) -> Tensor:
    return (1 + 0.1 * s) ** -1.1


def _shift(s: Tensor) -> Tensor:
    return ((s > 9) & (s < 11)).to(s.dtype)


def _twoparts(s: Tensor) -> Tensor:
    return torch.exp(-s) + torch.exp(-((s - 9) ** 2))


def _airy(s: Tensor) -> Tensor:
    return torch.special.airy_ai(s - 6)


exp = Target("exp", "e^-s", "exponential", 1.0, _exp)
pol = Target("pol", "(1 + 0.1 s)^-1.1", "polynomial", 1.1, _pol)
shift = Target("shift", "1 for 9 < s < 11, else 0", "compact", math.inf, _shift)
twoparts = Target("twoparts", "e^-s + e^-((s - 9)^2)", "exponential", 1.0, _twoparts)
airy = Target("airy", "Ai(s - 6)", "exponential", math.inf, _airy)
sin = Target("sin", "sin s", "none", 0.0, torch.sin)

_TABLE = {entry.name: entry for entry in (exp, pol, shift, twoparts, airy, sin)}

TARGETS = tuple(_TABLE)


def target(name: str) -> Target:
    """Look up a target functional, one of `TARGETS`.

    Raises:
        ValueError: unknown name.

    Example:
        >>> target("pol").decay
        'polynomial'
    """
    check_choice("target", name, TARGETS)
    return _TABLE[name]


def generate(
    target: str | Target,
    num_sequences: int,
    length: int,
    *,
    dt: float = 1.0,
    input: str = "white",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Input and output sequences of a target functional by the paper's protocol.

        x = dt * randn  (input="white"), or its running sum (input="cumsum");
        y[k] = sum_{s <= k} rho(s dt) x[k - s]

    The inputs depend on the seed and the shape alone: they are drawn in float64 on the CPU, without torch's global
    random state. The outputs are those of the inputs as returned, after rounding to `dtype`.

    Args:
        target: a name of `TARGETS`, or a `Target`.
        num_sequences: N >= 0.
        length: T >= 0.
        dt: step, time, > 0.
        input: "white" or "cumsum".
        seed: in [0, 2**64).
        dtype: floating point, of both results.
        device: of both results.

    Returns:
        inputs and outputs, (N, T, 1) each.

    Raises:
        TypeError: an argument has the wrong type, `dtype` is not floating point.
        ValueError: an unknown name, or a number out of range.

    Example:
        >>> x, y = generate("exp", 4, 100, seed=1)
        >>> x.shape, y.dtype
        (torch.Size([4, 100, 1]), torch.float64)
    """
    functional = target if isinstance(target, Target) else _lookup(target)
    num_sequences, length = check_int("num_sequences", num_sequences), check_int("length", length)
    seed = check_int("seed", seed, below=2**64)
    dt = check_number("dt", dt)
    check_choice("input", input, INPUTS)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point torch.dtype, got {dtype!r}")
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (num_sequences, length, 1)
    inputs = dt * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    if input == "cumsum":
        inputs = inputs.cumsum(1)
    inputs = inputs.to(dtype)
    return inputs.to(device), functional(inputs, dt=dt).to(device)


_lookup = target  # `generate` has an argument of the same name
