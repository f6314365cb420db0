"""Where an operator can run: a backend on a device, or Triton's interpreter in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cofm_triton.ops.backends import INSTALLED

INTERPRETER = "interpreter"


@dataclass(frozen=True)
class Place:
    """A backend and where it runs: `triton@cuda`, `triton@interpreter`, `numba@cpu`, `torch@cpu`, `torch@cuda`."""

    backend: str
    where: str

    @property
    def text(self) -> str:
        """For tables and replays."""
        return f"{self.backend}@{self.where}"

    @property
    def interpreted(self) -> bool:
        """Whether it takes a process with TRITON_INTERPRET=1."""
        return self.where == INTERPRETER

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return torch.device("cpu" if self.interpreted else self.where)


def places(device: str) -> tuple[list[Place], dict[str, str]]:
    """`(places, absent)`: what can run here, and why the rest cannot.

    Args:
        device: "auto" for all, "cpu" or "cuda" for those on it; Triton's interpreter runs on the CPU.
    """
    gpu = torch.cuda.is_available()
    no_gpu, no_triton = "no GPU here", "the package triton is not installed"
    every = {
        Place("triton", "cuda"): None if gpu and INSTALLED["triton"] else no_triton if gpu else no_gpu,
        Place("torch", "cuda"): None if gpu else no_gpu,
        Place("triton", INTERPRETER): None if INSTALLED["triton"] else no_triton,
        Place("numba", "cpu"): None if INSTALLED["numba"] else "the package numba is not installed",
        Place("torch", "cpu"): None,
    }
    wanted = {place: why for place, why in every.items() if device in ("auto", place.device.type)}
    return [place for place, why in wanted.items() if why is None], {p.text: why for p, why in wanted.items() if why}
