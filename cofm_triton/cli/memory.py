"""`cofm memory`: how fast models forget (Definition 3.1), and what perturbations change.

Computes the memory function of every model and fits its decay; with `--perturb`, those of all perturbed copies too.
A killed job continues where it was. `torchrun` splits it over processes and machines. The results are the same, bit for
bit, in every case.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.jobs.blocks import Block, BlockFiles, Result, run_blocks
from cofm_triton.cli.jobs.models import HELP, NamedModel, load_models
from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.jobs.run import run_job
from cofm_triton.cli.options import (
    UsageError,
    add_common_options,
    not_negative,
    positive,
    positive_number,
    radius_list,
)
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.table import aligned
from cofm_triton.support.figure_file import FORMATS
from cofm_triton.support.files import write_text

if TYPE_CHECKING:
    from cofm_triton.memory.decay_fit import DecayFit
    from cofm_triton.memory.function import MemoryFunction, Settings
    from cofm_triton.memory.sweep import MemorySweep


SUMMARY = "memory.json"
TOGETHER = "memories"
"""Figure of all models."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=HELP)
    parser.add_argument("--length", type=positive, metavar="T", default=1000, help="time steps (default: 1000)")
    parser.add_argument(
        "--samples", type=positive, metavar="S", help="keep so many steps, evenly spaced in log(step) (default: all)"
    )
    parser.add_argument(
        "--radius", type=positive_number, metavar="R", default=1.0, help="largest input |x| (default: 1)"
    )
    parser.add_argument(
        "--min-radius",
        type=positive_number,
        metavar="R",
        help="smallest input |x| (default: 0; for models with a bias, --radius)",
    )
    parser.add_argument(
        "--norm",
        choices=("inf", "inf+1"),
        default="inf",
        help="inf: divide by |x|, as the definition does; inf+1: by |x| + 1, as the paper's proofs do (default: inf)",
    )
    parser.add_argument(
        "--perturb",
        type=radius_list,
        metavar="R,R",
        help="perturb the parameters by these radii too (default: no perturbation)",
    )
    parser.add_argument(
        "--directions", type=positive, metavar="J", default=30, help="random directions of perturbation (default: 30)"
    )
    parser.add_argument(
        "--ball", choices=("inf", "l2"), default="inf", help="norm of the perturbation of each tensor (default: inf)"
    )
    parser.add_argument(
        "--input-size", type=positive, metavar="D", help="input features of a module without an attribute input_size"
    )
    parser.add_argument("--dt", type=positive_number, help="time step of models that are not cofm's (default: 1)")
    parser.add_argument(
        "--warm-up",
        type=not_negative,
        metavar="W",
        default=0,
        help="steps of zero input before the record: biases settle, and attention looks back at them (default: 0)",
    )
    add_common_options(parser, out="out/memory")
    parser.add_argument("--overwrite", action="store_true", help="replace a run with other settings in --out")


def run(arguments: argparse.Namespace) -> int:
    """Compute the memory functions, or those that are still missing.

    Returns:
        0.
    """

    def make(device: str) -> MemoryJob:
        return MemoryJob(load_models(arguments.models, device, arguments.seed), arguments)

    return run_job(arguments, make, lambda results, config, out: write_report(*results, config, out))


class MemoryJob:
    """What is to be computed.

    Args:
        models: whose memory functions are computed.
        arguments: the command's options.

    Raises:
        UsageError: an option does not fit a model.
    """

    def __init__(self, models: Sequence[NamedModel], arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._identities = [model.as_dict() for model in models]
        self._modules = {model.name: model.module for model in models}
        self._options = {
            name: getattr(arguments, name)
            for name in ("radius", "min_radius", "norm", "samples", "input_size", "dt", "warm_up")
        }
        self._smallest = {name: self._smallest_input(name) for name in self._modules}

    def config(self) -> dict[str, Any]:
        """What the results depend on, JSON values."""
        names = ("length", "directions", "ball", "seed")
        chosen = {name: getattr(self._arguments, name) for name in names}
        return {"models": self._identities, **self._options, **chosen, "perturb": list(self._radii)}

    def files(self) -> list[str]:
        """Names of the files that `write_report` writes."""
        kinds = ("memory", "sweep") if self._radii else ("memory",)
        return [
            SUMMARY,
            *(f"{kind}-{name}.{suffix}" for kind in kinds for name in self._modules for suffix in ("csv", *FORMATS)),
            *(f"{TOGETHER}.{suffix}" for suffix in FORMATS if len(self._modules) > 1),
        ]

    def headline(self) -> str:
        """The job in a line."""
        copies = f", and at {len(self._radii)} radii in {self._arguments.directions} directions" if self._radii else ""
        return f"memory of {len(self._modules)} models over {self._arguments.length} steps{copies}"

    def compute(
        self, files: BlockFiles, processes: Processes, progress: Progress
    ) -> tuple[dict[str, MemoryFunction], dict[str, MemorySweep]]:
        """Memory functions and, where asked for, sweeps of all models, in every process.

        Args:
            files: of finished blocks.
            processes: that share the work.
            progress: told how much is done.
        """
        numbered = list(enumerate(self._modules))
        count = self._arguments.directions if self._radii else 0
        blocks = [Block(f"{i:03d}-memory", partial(self._function, name)) for i, name in numbered]
        blocks += [
            Block(f"{i:03d}-direction-{j:05d}", partial(self._direction, name, j))
            for i, name in numbered
            for j in range(count)
        ]
        with progress.bar("memory functions") as on_step:
            results = iter(run_blocks(blocks, files, processes, on_step))
        functions = {name: self._joined_function(next(results)) for name in self._modules}
        sweeps = {name: self._joined_sweep([next(results) for _ in range(count)]) for name in self._modules if count}
        return functions, sweeps

    @property
    def _radii(self) -> Sequence[float]:
        return self._arguments.perturb or ()

    def _smallest_input(self, name: str) -> float | None:
        """The smallest |x|, one for all copies of a sweep: that of a model with a bias if one of them has one."""
        from cofm_triton.memory.sweep import sweep_domain

        arguments = self._arguments
        try:
            return sweep_domain(
                self._modules[name],
                arguments.length,
                radii=self._radii or (0.0,),
                directions=arguments.directions if self._radii else 1,
                seed=arguments.seed,
                ball=arguments.ball,
                **self._options,
            ).smallest
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"MODEL {name}: {self._by_option(str(error))}") from error

    def _by_option(self, message: str) -> str:
        """A message about an argument, with the name of the option that gave it."""
        name, _, rest = message.partition(" ")
        return f"--{name.replace('_', '-')} {rest}" if name in self._options else message

    def _function(self, name: str) -> Result:
        from cofm_triton.experiment.training import one_thread
        from cofm_triton.memory.function import memory_function

        with one_thread():
            memory = memory_function(self._modules[name], self._arguments.length, **self._options)
        numbers = _tensor(memory.beta0, memory.floor)
        return {"values": memory.values, "argmax": memory.argmax, "numbers": numbers, **_packed(memory.settings)}

    def _direction(self, name: str, j: int) -> Result:
        """All radii along one direction."""
        from cofm_triton.experiment.training import one_thread
        from cofm_triton.memory.sweep import memory_sweep
        from cofm_triton.perturbation.directions import parameter_shapes, random_direction

        module, arguments = self._modules[name], self._arguments
        direction = random_direction(parameter_shapes(module), j, seed=arguments.seed, ball=arguments.ball)
        options = {**self._options, "min_radius": self._smallest[name]}
        with one_thread():
            sweep = memory_sweep(module, arguments.length, radii=self._radii, directions=[direction], **options)
        numbers = _tensor(sweep.floor)
        return {"values": sweep.values, "beta0": sweep.beta0, "numbers": numbers, **_packed(sweep.settings)}

    def _joined_function(self, result: Result) -> MemoryFunction:
        from cofm_triton.memory.function import MemoryFunction

        settings = self._settings(result)
        return MemoryFunction(result["values"], result["argmax"], settings, *result["numbers"].tolist())

    def _joined_sweep(self, results: Sequence[Result]) -> MemorySweep:
        import torch

        from cofm_triton.memory.sweep import MemorySweep

        values, beta0 = (torch.cat([result[key] for result in results], 1) for key in ("values", "beta0"))
        floor = max(result["numbers"].item() for result in results)
        radii = torch.tensor(self._radii, dtype=torch.float64)
        return MemorySweep(radii, values, beta0, self._settings(results[0]), floor)

    def _settings(self, result: Result) -> Settings:
        from cofm_triton.memory.function import Settings

        dt, radius, min_radius = result["domain"].tolist()
        return Settings(result["steps"], dt, radius, min_radius, self._arguments.norm)


def _packed(settings: Settings) -> Result:
    """The settings as tensors, all but the norm."""
    return {"steps": settings.steps, "domain": _tensor(settings.dt, settings.radius, settings.min_radius)}


def _tensor(*numbers: float) -> Any:
    import torch

    return torch.tensor(numbers, dtype=torch.float64)


def write_report(
    functions: dict[str, MemoryFunction], sweeps: dict[str, MemorySweep], config: dict[str, Any], out: Path
) -> str:
    """Write memory.json, and a table and figures per model.

    Args:
        functions: by model.
        sweeps: by model, may be empty.
        config: of the job.
        out: folder.

    Returns:
        A table for people.
    """
    from cofm_triton.memory.function import plot_memory

    rows: list[tuple[str, ...]] = [("model", "radius", "decay", "rate", "on halves", "margin", "beta0", "within bound")]
    models: list[dict[str, Any]] = []
    for name, memory in functions.items():
        memory.to_csv(out / f"memory-{name}.csv")
        for suffix in FORMATS:
            memory.plot(out / f"memory-{name}.{suffix}")
        fit = _fit(memory)
        rows.append((name, "-", *_row(fit)))
        models.append({"name": name, "memory": _as_dict(fit), "perturbed": []})
        if name not in sweeps:
            continue
        sweep = sweeps[name]
        sweep.to_csv(out / f"sweep-{name}.csv")
        for suffix in FORMATS:
            sweep.plot(out / f"sweep-{name}.{suffix}")
        for r, radius in enumerate(sweep.radii.tolist()):
            worst = _envelope_fit(sweep, r)
            rows.append((name, f"{radius:.4g}", *_row(worst)))
            diverged = int(sweep.diverged[r].sum())
            models[-1]["perturbed"].append({"radius": radius, "diverged": diverged, **_as_dict(worst)})
    if len(functions) > 1:
        for suffix in FORMATS:
            plot_memory(functions, out / f"{TOGETHER}.{suffix}")
    write_text(out / SUMMARY, json.dumps({"config": config, "models": models}, indent=1, allow_nan=False) + "\n")
    return aligned(rows) + (
        "\nradius: of the perturbation; the fit is that of the largest memory there. rate: of an exponential,\n"
        "1 / time, or the exponent of a polynomial. on halves: of the record's later part; where they differ, the law\n"
        "still bends, and says little beyond the record. margin: how much better this law fits than the other;\n"
        "undecided below 0.5. beta0: decay rate of the model's slowest mode. within bound: whether the memory\n"
        "decays at least as fast, as Theorem 3.9 demands of stable approximations.\n"
    )


def _fit(memory: MemoryFunction) -> DecayFit | None:
    """None for a record too short to fit."""
    try:
        return memory.fit()
    except ValueError:
        return None


def _envelope_fit(sweep: MemorySweep, r: int) -> DecayFit | None:
    from cofm_triton.memory.decay_fit import fit_decay

    try:
        return fit_decay(sweep.times, sweep.upper[r], floor=sweep.floor, beta0=sweep.beta0[r].amin().item())
    except ValueError:
        return None


def _row(fit: DecayFit | None) -> tuple[str, ...]:
    if fit is None:
        return ("too short", "-", "-", "-", "-", "-")
    bound = "-" if math.isnan(fit.beta0) else f"{fit.beta0:.4g}"
    within = "-" if math.isnan(fit.beta0) else ("yes" if fit.within_bound else "no")
    halves = "-" if math.isnan(fit.interval[0]) else "{:.3g} to {:.3g}".format(*fit.interval)
    decay = fit.decay if fit.is_clear else f"undecided ({fit.decay})"
    return (decay, f"{fit.rate:.4g}", halves, f"{fit.margin:.2f}", bound, within)


def _as_dict(fit: DecayFit | None) -> dict[str, Any]:
    """JSON values; null stands for what is infinite or unknown."""
    if fit is None:
        return {"decay": None}
    names = ("rate", "exponent", "shift", "scale", "margin", "r_squared", "beta0")
    numbers = {name: value if math.isfinite(value := getattr(fit, name)) else None for name in names}
    within = None if math.isnan(fit.beta0) else fit.within_bound
    halves = None if math.isnan(fit.interval[0]) else list(fit.interval)
    shown = {"clear": fit.is_clear, **numbers, "interval": halves, "window": list(fit.window), "within_bound": within}
    return {"decay": fit.decay, **shown}
