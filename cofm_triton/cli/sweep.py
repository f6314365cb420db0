"""`cofm sweep`: how much worse models get when their parameters move (Definition 3.4).

Computes the error of every model at every radius: in random directions, in the slow direction, and with
`--search gradient` in the worst direction that gradient ascent finds. Each is a lower bound of the definition's
supremum over all directions. A killed job continues where it was. `torchrun` splits it over processes and machines. The
results are the same, bit for bit, in every case.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.jobs.blocks import Block, BlockFiles, Result, run_blocks
from cofm_triton.cli.jobs.data import Data, add_data_options, load_data
from cofm_triton.cli.jobs.models import HELP, NamedModel, load_models
from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.jobs.run import run_job
from cofm_triton.cli.options import (
    UsageError,
    add_common_options,
    byte_count,
    positive,
    radius_list,
)
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.table import aligned
from cofm_triton.support.figure_file import FORMATS
from cofm_triton.support.files import write_bytes, write_table, write_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cofm_triton.experiment.figures import SweepCurve
    from cofm_triton.perturbation.directions import Direction
    from cofm_triton.perturbation.evaluator import ErrorEvaluator

_TOLERATED = 0.1  # of the zero model's error, as in the horizon test
SLOW, WORST = "slow", "worst"
"""Stand in the column "direction" for the slow direction and for what ascent found."""
ERRORS, SUMMARY, FIGURES = "errors.csv", "sweep.json", tuple(f"sweep.{suffix}" for suffix in FORMATS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=HELP)
    add_data_options(parser)
    parser.add_argument(
        "--radii",
        type=radius_list,
        metavar="R,R",
        help="radii of the perturbations (default: the paper's 22, from 0 to 1.024)",
    )
    parser.add_argument("--directions", type=positive, metavar="J", default=30, help="random directions (default: 30)")
    parser.add_argument(
        "--search",
        choices=("random", "gradient"),
        default="random",
        help="random: the largest error of the random directions, a lower bound of that of all; gradient: also look "
        "for a worse direction by gradient ascent (default: random)",
    )
    parser.add_argument(
        "--ball",
        choices=("inf", "l2"),
        default="inf",
        help="norm of the perturbation of each tensor; inf: largest entry, as in the paper's code; l2: spectral norm, "
        "as in its definition (default: inf)",
    )
    parser.add_argument(
        "--metric",
        choices=("twe", "mse", "sup"),
        default="twe",
        help="error measure; twe: temporally weighted mean squared error; mse: mean squared error; sup: largest error "
        "(default: twe)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float64"),
        default="float32",
        help="dtype of the states; errors are summed in float64 (default: float32)",
    )
    parser.add_argument(
        "--memory-limit",
        type=byte_count,
        metavar="SIZE",
        help="memory that perturbed copies of a model may take at a time, in each process, like 500MiB; for models "
        "that are no one-layer cofm models. The last bits of errors depend on it (default: 1GiB)",
    )
    add_common_options(parser, out="out/sweep")
    parser.add_argument("--overwrite", action="store_true", help="replace a run with other settings in --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep, or the blocks that are still missing.

    Returns:
        0.
    """

    def make(device: str) -> Sweep:
        models = load_models(arguments.models, device, arguments.seed)
        return Sweep(models, load_data(arguments), device, arguments)

    return run_job(arguments, make, write_report)


@dataclass(frozen=True)
class ModelCurve:
    """The sweep of one model; tensors are float64 on the CPU.

    Attributes:
        name: of the model.
        radii: (R,).
        random: (R, J).
        slow: (R,), None for a model without slow direction.
        worst: (R,), None where no ascent was made.
        found: the perturbation of each radius that gives `worst`; empty where no ascent was made.
        zero_error: P, of the zero model.
    """

    name: str
    radii: Tensor
    random: Tensor
    slow: Tensor | None
    worst: Tensor | None
    found: list[Direction]
    zero_error: float

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """Columns over radii, in the unit of errors."""
        from cofm_triton.perturbation.curve import PerturbationCurve

        largest = self.random.amax(1)
        curve = PerturbationCurve(self.radii, self.random[None], largest[None], largest[None].isinf())
        columns = {"mean": curve.mean[0], **{f"q{q}": curve.quantile(q / 100)[0] for q in (10, 50, 90)}, "max": largest}
        columns["running_max"] = curve.running_max[0]
        optional = {SLOW: self.slow, WORST: self.worst}
        return columns | {name: values for name, values in optional.items() if values is not None}

    def tolerated(self, errors: Tensor) -> float:
        """The largest radius up to which errors stay below a tenth of P; NaN if none does."""
        order = self.radii.argsort()
        passed = (errors[order] <= _TOLERATED * self.zero_error).long().cumprod(0).bool()
        return self.radii[order][passed][-1].item() if bool(passed.any()) else math.nan


class Sweep:
    """What is to be computed.

    Args:
        models: of the job.
        data: they are judged by.
        device: of this process.
        arguments: the command's options.

    Raises:
        UsageError: the data are no finite sequences, or a model does not fit them.
    """

    def __init__(self, models: Sequence[NamedModel], data: Data, device: str, arguments: argparse.Namespace) -> None:
        import torch

        from cofm_triton.perturbation.directions import check_radii

        self._arguments, self._data = arguments, data
        self._state = torch.float32 if arguments.precision == "float32" else torch.float64
        self._radii = check_radii(arguments.radii)
        self._identities = [model.as_dict() for model in models]
        self._models = [(model.name, model.module.to(self._dtype(model.module))) for model in models]
        dtypes = {self._dtype(module) for _, module in self._models}
        self._evaluators = {dtype: self._evaluator_of(device, dtype) for dtype in dtypes}
        for name, module in self._models:
            self._check(name, module)
        self._directions = [self._random_directions(module) for _, module in self._models]

    def config(self) -> dict[str, Any]:
        """What the results depend on, JSON values."""
        options = ("directions", "search", "ball", "metric", "precision", "seed")
        chosen = {name: getattr(self._arguments, name) for name in options}
        chosen["memory_limit"] = next(iter(self._evaluators.values())).memory_limit
        return {"models": self._identities, "data": self._data.source, "radii": self._radii.tolist(), **chosen}

    def files(self) -> list[str]:
        """Names of the files that `write_report` writes."""
        searched = self._arguments.search == "gradient"
        return [ERRORS, SUMMARY, *FIGURES, *(_found_file(name) for name, _ in self._models if searched)]

    def headline(self) -> str:
        """The job in a line."""
        count, length = self._data.inputs.shape[:2]
        return (
            f"{len(self._models)} models at {len(self._radii)} radii in {self._arguments.directions} directions "
            f"on {count} sequences of {length} steps"
        )

    def compute(self, files: BlockFiles, processes: Processes, progress: Progress) -> list[ModelCurve]:
        """The curves of all models, in every process.

        Args:
            files: of finished blocks.
            processes: that share the work.
            progress: told how much is done.
        """
        directions = [list(self._direction_blocks(index)) for index in range(len(self._models))]
        with progress.bar("random and slow directions") as on_step:
            results = iter(run_blocks([b for blocks in directions for b in blocks], files, processes, on_step))
        errors = [[next(results)["error"] for _ in blocks] for blocks in directions]
        worst: list[list[Result]] = [[] for _ in self._models]
        if self._arguments.search == "gradient":
            ascents = [self._worst_block(i, r, errors[i]) for i in range(len(errors)) for r in range(len(self._radii))]
            with progress.bar("worst case") as on_step:
                found = iter(run_blocks(ascents, files, processes, on_step))
            worst = [[next(found) for _ in self._radii] for _ in self._models]
        return [self._curve(i, columns, points) for i, (columns, points) in enumerate(zip(errors, worst, strict=True))]

    def _direction_blocks(self, index: int) -> Iterator[Block]:
        """Every radius along one direction, the slow one last."""
        for j, direction in enumerate(self._directions[index]):
            yield Block(f"{index:03d}-direction-{j:05d}", partial(self._errors, index, direction))
        slow = self._slow_direction(index)
        if slow is not None:
            yield Block(f"{index:03d}-slow", partial(self._errors, index, slow))

    def _errors(self, index: int, direction: Direction) -> Result:
        from cofm_triton.perturbation.copies import errors_along

        module = self._models[index][1]
        evaluator = self._evaluator(module)
        with self._threads(module):
            return {"error": errors_along(evaluator, module, self._radii, [direction])[:, 0]}

    def _worst_block(self, index: int, r: int, errors: Sequence[Tensor]) -> Block:
        """The ascent at one radius, from the errors of all directions."""
        return Block(f"{index:03d}-worst-{r:03d}", partial(self._ascend, index, r, errors))

    def _ascend(self, index: int, r: int, errors: Sequence[Tensor]) -> Result:
        import torch

        from cofm_triton.experiment.training import one_thread
        from cofm_triton.perturbation.worst_case import ascend

        module, directions = self._models[index][1], self._directions[index]
        radii = self._radii[r : r + 1]
        random = torch.stack(list(errors[: len(directions)]), 1)[r : r + 1]
        with one_thread():
            worst = ascend(self._evaluator(module), module, radii, directions, random, self._arguments.ball)
        return {"error": worst.error, **{f"found.{name}": value for name, value in worst.perturbations[0].items()}}

    def _curve(self, index: int, errors: Sequence[Tensor], worst: Sequence[Result]) -> ModelCurve:
        import torch

        name, module = self._models[index]
        count = len(self._directions[index])
        found = [{key.removeprefix("found."): v for key, v in r.items() if key != "error"} for r in worst]
        return ModelCurve(
            name,
            self._radii,
            torch.stack(list(errors[:count]), 1),
            errors[count] if len(errors) > count else None,
            torch.cat([result["error"] for result in worst]) if worst else None,
            found,
            self._evaluator(module).zero_error,
        )

    def _dtype(self, module: nn.Module) -> Any:
        """Dtype of parameters and data: float64 on the fused path, where states have a dtype of their own."""
        import torch

        from cofm_triton.perturbation.stacking import is_stackable

        return torch.float64 if is_stackable(module) else self._state

    def _evaluator_of(self, device: str, dtype: Any) -> ErrorEvaluator:
        """The evaluator of all models whose parameters have this dtype."""
        from cofm_triton.perturbation.evaluator import ErrorEvaluator

        inputs, targets = (values.to(device, dtype) for values in (self._data.inputs, self._data.targets))
        try:
            return ErrorEvaluator(inputs, targets, self._arguments.metric, self._state, self._arguments.memory_limit)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self._data.option}: {error}") from error

    def _evaluator(self, module: nn.Module) -> ErrorEvaluator:
        return self._evaluators[self._dtype(module)]

    def _threads(self, module: nn.Module) -> AbstractContextManager[None]:
        """One thread, if sums depend on the number of threads."""
        from cofm_triton.experiment.training import one_thread

        return one_thread() if self._evaluator(module).depends_on_threads(module) else nullcontext()

    def _check(self, name: str, module: nn.Module) -> None:
        if next(module.parameters(), None) is None:
            raise UsageError(f"MODEL {name}: it has no parameters to perturb")
        evaluator = self._evaluator(module)
        try:
            evaluator.check(module)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"MODEL {name}: it does not fit the data: {error}") from error
        try:
            evaluator.check_memory(module, gradient=self._arguments.search == "gradient")
        except ValueError as error:
            raise UsageError(f"MODEL {name}: {error}".replace("memory_limit", "--memory-limit")) from error
        if evaluator.zero_error == 0:
            raise UsageError(f"{self._data.option}: the targets must not all be zero")

    def _random_directions(self, module: nn.Module) -> Sequence[Direction]:
        from cofm_triton.perturbation.directions import parameter_shapes, random_direction

        chosen, shapes = self._arguments, parameter_shapes(module)
        return [random_direction(shapes, j, seed=chosen.seed, ball=chosen.ball) for j in range(chosen.directions)]

    def _slow_direction(self, index: int) -> Direction | None:
        from cofm_triton.perturbation.directions import slow_direction

        try:
            return slow_direction(self._models[index][1], ball=self._arguments.ball)
        except ValueError:  # a module without cofm layers has none
            return None


def write_report(curves: Sequence[ModelCurve], config: dict[str, Any], out: Path) -> str:
    """Write errors.csv, sweep.json, the figure, and the worst perturbations.

    Args:
        curves: of all models.
        config: of the job.
        out: folder.

    Returns:
        A table for people.
    """
    from cofm_triton.experiment.figures import plot_sweeps

    _write_errors(curves, out / ERRORS)
    summary = {"config": config, "models": [_as_dict(curve) for curve in curves]}
    write_text(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    for curve in curves:
        _write_found(curve, out / _found_file(curve.name))
    title = "Error under parameter perturbation"
    plot_sweeps([_relative(curve) for curve in curves], title, [out / name for name in FIGURES])
    return _table(curves)


def _write_errors(curves: Sequence[ModelCurve], path: Path) -> None:
    rows: list[tuple[object, ...]] = []
    for curve in curves:
        optional = {SLOW: curve.slow, WORST: curve.worst}
        named = {name: values.tolist() for name, values in optional.items() if values is not None}
        for r, (radius, errors) in enumerate(zip(curve.radii.tolist(), curve.random.tolist(), strict=True)):
            lines = [*enumerate(errors), *((name, values[r]) for name, values in named.items())]
            rows += ((curve.name, radius, j, e, e / curve.zero_error, int(e == math.inf)) for j, e in lines)
    write_table(path, ("model", "radius", "direction", "error", "relative_error", "diverged"), rows)


def _as_dict(curve: ModelCurve) -> dict[str, Any]:
    """JSON values; null stands for infinity."""
    columns = {name: [_finite(value) for value in values.tolist()] for name, values in curve.statistics.items()}
    tolerated = {name: _finite(curve.tolerated(errors)) for name, errors in _judged(curve).items()}
    return {
        "name": curve.name,
        "zero_error": curve.zero_error,
        "radii": curve.radii.tolist(),
        **columns,
        "diverged": curve.random.isinf().sum(1).tolist(),
        "tolerated_radius": tolerated,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _judged(curve: ModelCurve) -> dict[str, Tensor]:
    return {name: curve.statistics[name] for name in ("max", SLOW, WORST) if name in curve.statistics}


def _found_file(model: str) -> str:
    return f"worst-{model}.safetensors"


def _write_found(curve: ModelCurve, path: Path) -> None:
    """Write the perturbations that ascent found, if any, as tensors named "RADIUS INDEX.PARAMETER NAME"."""
    from safetensors.torch import save

    if curve.found:
        tensors = {f"{r}.{name}": value for r, point in enumerate(curve.found) for name, value in point.items()}
        write_bytes(path, save(tensors))


def _relative(curve: ModelCurve) -> SweepCurve:
    from cofm_triton.experiment.figures import SweepCurve

    columns = {name: (values / curve.zero_error).tolist() for name, values in curve.statistics.items()}
    return SweepCurve(
        curve.name,
        curve.radii.tolist(),
        columns["max"],
        columns["q10"],
        columns["q90"],
        columns.get(SLOW, ()),
        columns.get(WORST, ()),
    )


def _table(curves: Sequence[ModelCurve]) -> str:
    rows: list[tuple[str, ...]] = [("model", "E(0) / P", *(f"r, {name}" for name in ("random", SLOW, WORST)))]
    for curve in curves:
        judged = _judged(curve)
        start = curve.statistics["max"][curve.radii.argmin()].item() / curve.zero_error
        radii = (f"{curve.tolerated(judged[name]):.4g}" if name in judged else "-" for name in ("max", SLOW, WORST))
        rows.append((curve.name, f"{start:.3g}", *radii))
    return aligned(rows) + (
        "\nP: error of the zero model, whose output is 0. r: largest radius of the grid up to which the error\n"
        f"stays below {_TOLERATED} P, in random directions, the slow direction, and the worst one found by ascent.\n"
        "nan: it is larger at the smallest radius already.\n"
    )
