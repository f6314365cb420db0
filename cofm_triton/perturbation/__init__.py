"""Perturbation errors: how much worse a model gets when its weights move, and what follows from it."""

from typing import TYPE_CHECKING

from cofm_triton.support.lazy import lazy

if TYPE_CHECKING:
    from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
    from cofm_triton.perturbation.verdict import StabilityVerdict, stability_verdict
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {"curve": ["PerturbationCurve", "perturbation_error"], "verdict": ["StabilityVerdict", "stability_verdict"]},
    )

__all__ = ["PerturbationCurve", "StabilityVerdict", "perturbation_error", "stability_verdict"]
