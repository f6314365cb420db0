"""The paper's way through a perturbation sweep: every perturbed model is evaluated on its own."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer
from cofm_triton.evidence.operators.perturbation_error import contestant, model_by_model
from cofm_triton.evidence.problem import Problem


def _prepare(problem: Problem) -> Contestant:
    return contestant(model_by_model(problem.x, problem["targets"], problem.options["width"]))


PEER = Peer(
    name="model by model",
    prepare={"perturbation_error": _prepare},
    dtypes=(torch.float64,),
)
