"""The paper's way through a perturbation sweep: every perturbed model is evaluated on its own."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Peer
from cofm_triton.evidence.benchmark.operators.perturbation_error import contestant, model_by_model

PEER = Peer(
    name="model by model",
    prepare={"perturbation_error": lambda problem: contestant(model_by_model(problem))},
    dtypes=(torch.float64,),
)
