"""What a sequence over many processes costs: messages and time of a pass, at 1, 2 and 4 processes.

    python bench/ranks.py [--length 262144] [--rounds 5]

Messages are counted where they are sent, in bytes that the busiest rank gives away and takes in, at two lengths. Times
are medians of the slowest rank: by the clock, which means something with a core for every process, and of its
processor, which says how the work is shared on any machine. Every process has one thread. One process alone runs the
function of `cofm_triton` of the same name.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

import cofm_triton as cofm
from cofm_triton import distributed
from cofm_triton.evidence import machine

COLLECTIVES = ("all_gather", "all_reduce", "broadcast", "isend", "recv")
PROCESSES = (1, 2, 4)
WIDTH = 64
SHORTER = 16  # how much shorter the other length is at which messages are counted


class Row(NamedTuple):
    """One way of going through time.

    Attributes:
        name: of the row.
        function: of `cofm_triton.distributed`, and of `cofm_triton`.
        batch: B. The whole sequence has `length / batch` steps, so that all rows have as many numbers.
        parameters: from (B, T) of a slice.
        handover: option of the function over ranks.
        options: of the function anywhere.
    """

    name: str
    function: str
    batch: int
    parameters: Callable[[int, int], Tensor]
    handover: str | None = None
    options: dict[str, Any] | None = None


def constant(batch: int, length: int) -> Tensor:
    """Rates, and decays."""
    return torch.linspace(0.1, 0.9, WIDTH)


ROWS = (
    Row("linear_scan", "linear_scan", 1, constant),
    Row("linear_scan, gates", "linear_scan", 1, lambda batch, length: torch.rand(batch, length, WIDTH)),
    Row("rnn_scan, guessed", "rnn_scan", 1, constant, "guessed", {"nonlinearity": "tanh"}),
    Row("rnn_scan, in turn", "rnn_scan", 16, constant, "in turn", {"nonlinearity": "tanh"}),
    Row("dense_rnn", "dense_rnn", 16, lambda batch, length: torch.eye(WIDTH) / 2, None, {"nonlinearity": "tanh"}),
)


class Cost(NamedTuple):
    """Of a pass.

    Attributes:
        messages: how many of each kind.
        sent: bytes.
        clock: seconds.
        processor: seconds.
    """

    messages: dict[str, int]
    sent: int
    clock: float
    processor: float


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Every message of this rank: which function, and how many bytes it gives away or takes in."""
    calls: list[tuple[str, int]] = []

    def counting(name: str, function: Callable[..., Any], *tensors: Tensor, **options: Any) -> Any:
        sent = next(t for t in reversed(tensors) if isinstance(t, Tensor))
        calls.append((name, sent.numel() * sent.itemsize))
        return function(*tensors, **options)

    with ExitStack() as patches:
        for name in COLLECTIVES:
            patches.enter_context(mock.patch.object(dist, name, partial(counting, name, getattr(dist, name))))
        yield calls


def timed(act: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a function returns, and what it has cost this rank."""
    if dist.is_initialized():
        dist.barrier()
    with counted() as calls:
        clock, processor = perf_counter(), process_time()
        result = act()
        clock, processor = perf_counter() - clock, process_time() - processor
    return result, Cost(dict(Counter(name for name, _ in calls)), sum(size for _, size in calls), clock, processor)


def costs(row: Row, length: int, rounds: int) -> tuple[Cost, Cost]:
    """Of the forward and of the backward pass on this rank; the first round, which compiles, counts no time.

    Args:
        row: what is run.
        length: steps of the whole batch on all ranks.
        rounds: how often it is timed.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    steps = length // row.batch // ranks
    torch.manual_seed(rank)
    x = torch.randn(row.batch, steps, WIDTH, requires_grad=True)
    tensors = x, row.parameters(row.batch, steps).requires_grad_()
    handover = {} if row.handover is None or ranks == 1 else {"handover": row.handover}
    run = partial(
        getattr(distributed if ranks > 1 else cofm, row.function), *tensors, **(row.options or {}), **handover
    )
    passes: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(rounds + 1):
        (h, _last), forward = timed(run)
        _grads, backward = timed(partial(torch.autograd.grad, h, tensors, torch.ones_like(h)))
        passes[0].append(forward)
        passes[1].append(backward)
    forward, backward = (
        seen[0]._replace(
            clock=median(cost.clock for cost in seen[1:]), processor=median(cost.processor for cost in seen[1:])
        )
        for seen in passes
    )
    return forward, backward


def busiest(of_ranks: Sequence[Cost]) -> Cost:
    """The messages of the rank that sends most, and the times of the slowest ones."""
    talks = max(of_ranks, key=lambda cost: cost.sent)
    return talks._replace(
        clock=max(cost.clock for cost in of_ranks), processor=max(cost.processor for cost in of_ranks)
    )


Found = dict[tuple[str, int], tuple[Cost, Cost]]


def measure(length: int, rounds: int) -> Found:
    """By the name of a row and the length, on all ranks alike."""
    found: Found = {}
    for row in ROWS:
        for steps, times in ((length, rounds), (length // SHORTER, 1)):
            mine = costs(row, steps, times)
            everyone: list[Any] = [mine]
            if dist.is_initialized():
                everyone = [None] * dist.get_world_size()
                dist.all_gather_object(everyone, mine)
            forward, backward = (busiest(each) for each in zip(*everyone, strict=True))
            found[row.name, steps] = forward, backward
    return found


def work(rank: int, ranks: int, folder: str, length: int, rounds: int) -> None:
    """A process: measures, and the first one leaves a file."""
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", f"file://{folder}/store-{ranks}", rank=rank, world_size=ranks)
    found = measure(length, rounds)
    if rank == 0:
        torch.save(found, Path(folder) / f"{ranks}.pt")
    if ranks > 1:
        dist.destroy_process_group()


def message_table(found: dict[int, Found], length: int) -> Iterator[str]:
    """Lines of the table of messages."""
    yield "| | ranks | forward | bytes at T / 16 | at T | backward | bytes at T / 16 | at T |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in ROWS:
        for ranks in (count for count in found if count > 1):
            whole, shorter = found[ranks][row.name, length], found[ranks][row.name, length // SHORTER]
            cells = [
                f"{', '.join(f'{n} {name}' for name, n in many.messages.items())} | {few.sent:,} | {many.sent:,}"
                for many, few in zip(whole, shorter, strict=True)
            ]
            yield f"| `{row.name}` | {ranks} | {' | '.join(cells)} |"


def time_table(found: dict[int, Found], length: int) -> Iterator[str]:
    """Lines of the table of times: clock / processor, ms."""
    yield f"| | (B, T) | pass | {' | '.join(f'{ranks} processes' for ranks in found)} |"
    yield f"| --- | --- | --- |{' --- |' * len(found)}"
    for row in ROWS:
        for place, name in enumerate(("forward", "backward")):
            seen = [found[ranks][row.name, length][place] for ranks in found]
            cells = [f"{1e3 * cost.clock:.1f} / {1e3 * cost.processor:.1f}" for cost in seen]
            yield f"| `{row.name}` | ({row.batch}, {length // row.batch:,}) | {name} | {' | '.join(cells)} |"


def main(given: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=2**18, help="steps of all sequences of a batch together")
    parser.add_argument("--rounds", type=int, default=5, help="how often a pass is timed")
    arguments = parser.parse_args(given)
    load = machine.load()
    with tempfile.TemporaryDirectory() as folder:
        for ranks in PROCESSES:
            spawn(work, (ranks, folder, arguments.length, arguments.rounds), nprocs=ranks)
        found = {ranks: torch.load(Path(folder) / f"{ranks}.pt", weights_only=False) for ranks in PROCESSES}
    print(f"Messages of a rank in a pass; {WIDTH} channels, float32\n")
    print(*message_table(found, arguments.length), sep="\n")
    print(f"\nTime of a pass, ms by the clock / of the processor; {WIDTH} channels, float32\n")
    print(*time_table(found, arguments.length), sep="\n")
    print(f"\n{machine.caption(machine.describe(torch.device('cpu'), load))}; one thread for each process")


if __name__ == "__main__":
    main()
