"""Train, perturb, find radii: every step leaves finished files behind and is skipped next time."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product

import torch
from torch import Tensor

from cofm_triton import targets as target_functionals
from cofm_triton.cli.jobs.data import HORIZON, TEST, TRAIN, data_seed
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.reproduction.folder import Cell, RunFolder
from cofm_triton.cli.reproduction.settings import Settings
from cofm_triton.experiment.training import (
    initial_model,
    one_thread,
    train_linear,
    train_sequences,
    with_nonlinearity,
)
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.loss import temporally_weighted_mse
from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
from cofm_triton.perturbation.quadratic_form import QuadraticForm
from cofm_triton.perturbation.verdict import resolution, slow_direction_radius
from cofm_triton.step.activations import properties
from cofm_triton.support.progress import Progress as OnProgress

ERROR_COLUMNS = (
    "target",
    "nonlinearity",
    "parameterization",
    "width",
    "radius",
    "direction",
    "error",
    "relative_error",
)
SLOW = "slow"
"""Stands in the column "direction" for the slow direction; random ones have numbers."""

_STATE = torch.float32
"""Nonlinear states are bounded, and errors are summed in float64; linear models have a closed form."""


def cells(settings: Settings, target: str, nonlinearity: str) -> list[Cell]:
    """The models of one target and activation."""
    return [
        Cell(target, nonlinearity, parameterization, width)
        for parameterization, width in product(settings.parameterizations, settings.widths)
    ]


def run_stages(settings: Settings, folder: RunFolder, progress: Progress, *, sweep: bool = True) -> None:
    """Compute whatever the folder lacks.

    Args:
        settings: what to compute.
        folder: open, of the same settings.
        progress: told what happens.
        sweep: whether the errors under perturbation are asked for; verdicts need none.
    """
    for target, length in product(settings.targets, settings.horizons):
        _train(settings, folder, progress, target, length)
    for target, nonlinearity in product(settings.targets, settings.nonlinearities):
        with _threads(settings, nonlinearity):
            if sweep:
                _sweep(settings, folder, progress, target, nonlinearity)
            for length in settings.horizons:
                _find_radii(settings, folder, progress, target, nonlinearity, length)


def _threads(settings: Settings, nonlinearity: str) -> AbstractContextManager[None]:
    """Matrix products depend on the number of threads in their last bits, compiled sweeps of single units do not."""
    compiled = not properties(nonlinearity).is_linear and settings.kind == "diagonal"
    return nullcontext() if compiled else one_thread()


def _data(settings: Settings, target: str, length: int, data_set: int) -> tuple[Tensor, Tensor]:
    """Inputs and outputs (N, T, 1) float64 of a data set."""
    count = (settings.train_sequences, settings.test_sequences, settings.horizon_sequences)[data_set]
    return target_functionals.generate(target, count, length, dt=settings.dt, seed=data_seed(settings.seed, data_set))


def _train(settings: Settings, folder: RunFolder, progress: Progress, target: str, length: int) -> None:
    """All models of one target and length: linear ones, then the others starting from them."""
    linear = _train_linear_models(settings, folder, progress, target, length)
    for nonlinearity in settings.nonlinearities:
        if not properties(nonlinearity).is_linear:
            _train_nonlinear_models(settings, folder, progress, target, length, nonlinearity, linear)


def _train_linear_models(
    settings: Settings, folder: RunFolder, progress: Progress, target: str, length: int
) -> list[RNNFunctional]:
    group = cells(settings, target, "linear")
    paths = [folder.model(cell, length) for cell in group]
    if all(path.exists() for path in paths):
        return [folder.load(cell, length) for cell in group]
    models = [
        initial_model(
            cell.width,
            parameterization=cell.parameterization,
            recurrence=settings.recurrence,
            oscillating=settings.oscillating,
            dt=settings.dt,
            discretization=settings.discretization,
            seed=settings.seed,
        )
        for cell in group
    ]
    inputs, outputs = _data(settings, target, length, TRAIN)
    kernel = target_functionals.target(target).kernel(length, dt=settings.dt)
    centre = torch.stack([kernel, torch.zeros_like(kernel)])[None]
    with one_thread():
        form = QuadraticForm.from_data(inputs, outputs, centre=centre)
    with progress.bar(f"train {target} T={length} linear") as on_step:
        losses = train_linear(models, form, steps=settings.linear_steps, progress=on_step)
    _save(folder, group, length, models, losses)
    return models


def _train_nonlinear_models(
    settings: Settings,
    folder: RunFolder,
    progress: Progress,
    target: str,
    length: int,
    nonlinearity: str,
    linear: Sequence[RNNFunctional],
) -> None:
    group = cells(settings, target, nonlinearity)
    if all(folder.model(cell, length).exists() for cell in group):
        return
    models = [with_nonlinearity(model, nonlinearity) for model in linear]
    inputs, outputs = _data(settings, target, length, TRAIN)
    with progress.bar(f"train {target} T={length} {nonlinearity}") as on_step:
        losses = train_sequences(
            models,
            inputs.to(settings.device, torch.float32),
            outputs.to(settings.device, torch.float32),
            steps=settings.sequence_steps,
            batch_size=max(8, settings.batch // length),
            seed=settings.seed,
            progress=on_step,
        )
    _save(folder, group, length, models, losses)


def _save(
    folder: RunFolder,
    group: Sequence[Cell],
    length: int,
    models: Sequence[RNNFunctional],
    losses: Tensor,
) -> None:
    for cell, model, loss in zip(group, models, losses.tolist(), strict=True):
        finite = loss if math.isfinite(loss) else None  # JSON has neither infinity nor NaN
        notes = {"target": cell.target, "length": length, "relative_training_loss": finite}
        folder.save(cell, length, model, notes)


def _sweep(settings: Settings, folder: RunFolder, progress: Progress, target: str, nonlinearity: str) -> None:
    """Errors of the models of the sweep's horizon under perturbation."""
    missing = [c for c in cells(settings, target, nonlinearity) if not folder.errors(c).exists()]
    if not missing:
        return
    inputs, outputs = _data(settings, target, settings.sweep_horizon, TEST)
    with one_thread():
        zero_error = float(temporally_weighted_mse(torch.zeros_like(outputs), outputs))
    inputs, outputs = inputs.to(settings.device), outputs.to(settings.device)
    with progress.bar(f"perturb {target} {nonlinearity}") as on_step:
        for batch in _batches(missing, nonlinearity, on_step):
            models = _load(settings, folder, batch, settings.sweep_horizon)
            random = perturbation_error(
                models,
                inputs,
                outputs,
                directions=settings.directions,
                seed=settings.seed,
                dtype=_STATE,
            )
            slow = perturbation_error(models, inputs, outputs, search="slow", dtype=_STATE)
            for row, cell in enumerate(batch):
                text = _error_rows(cell, row, random, slow, zero_error)
                folder.keep(folder.errors(cell), text)


def _find_radii(
    settings: Settings,
    folder: RunFolder,
    progress: Progress,
    target: str,
    nonlinearity: str,
    length: int,
) -> None:
    """Slow-direction radii of the models of one target, activation and length."""
    group = cells(settings, target, nonlinearity)
    missing = [cell for cell in group if not folder.radius(cell, length).exists()]
    if not missing:
        return
    inputs, outputs = _data(settings, target, length, HORIZON)
    inputs, outputs = inputs.to(settings.device), outputs.to(settings.device)
    with progress.bar(f"radius {target} T={length} {nonlinearity}") as on_step:
        for batch in _batches(missing, nonlinearity, on_step):
            models = _load(settings, folder, batch, length)
            radii = slow_direction_radius(models, inputs, outputs, dtype=_STATE)
            for cell, model, radius in zip(batch, models, radii, strict=True):
                record = {
                    "radius": radius,
                    "resolution": resolution(model, _STATE),
                    "margin": model.rnn.stability_margin(),
                }
                folder.keep(folder.radius(cell, length), json.dumps(record) + "\n")


def _batches(missing: Sequence[Cell], nonlinearity: str, on_step: OnProgress) -> Iterator[list[Cell]]:
    """Linear models all at once, for they share one quadratic form; the others one by one."""
    size = len(missing) if properties(nonlinearity).is_linear else 1
    for first in range(0, len(missing), size):
        yield list(missing[first : first + size])
        on_step(min(first + size, len(missing)), len(missing))


def _load(settings: Settings, folder: RunFolder, group: Sequence[Cell], length: int) -> list[RNNFunctional]:
    return [folder.load(cell, length, settings.device) for cell in group]


def _error_rows(
    cell: Cell,
    row: int,
    random: PerturbationCurve,
    slow: PerturbationCurve,
    zero_error: float,
) -> str:
    """CSV lines, no header, of one model: every radius and direction, the slow one last."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    key = (cell.target, cell.nonlinearity, cell.parameterization, cell.width)
    for i, radius in enumerate(random.radii.tolist()):
        numbered = enumerate(random.per_direction[row, i].tolist())
        last = (SLOW, float(slow.error[row, i]))
        for direction, error in (*numbered, last):
            writer.writerow((*key, repr(radius), direction, repr(error), repr(error / zero_error)))
    return stream.getvalue()
