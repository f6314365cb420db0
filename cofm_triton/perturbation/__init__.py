"""Perturbation errors: how much worse a model gets when its weights move, and what follows from it."""

from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
from cofm_triton.perturbation.verdict import StabilityVerdict, stability_verdict

__all__ = ["PerturbationCurve", "StabilityVerdict", "perturbation_error", "stability_verdict"]
