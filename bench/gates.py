"""RG-LRU's recurrence by everyone who can: time, and how many numbers move for each number of x.

    python bench/gates.py [--shape 8 1024 512]

Times are in copies of x, by turns, see `cofm_triton/evidence/benchmark/measure.py`. Numbers moved are those that the
operations of PyTorch read and write, as they are called here, each tensor once an operation: an upper bound of what
memory sees, and the same on every machine. Of our operator they are its traffic model's. What a compiler fuses is not
seen. Peers that are not installed are left out with a reason, as by `cofm bench`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cofm_triton.evidence import machine
from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Unsupported
from cofm_triton.evidence.benchmark.measure import Turns
from cofm_triton.evidence.benchmark.peers import declines, missing, peers
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import benchmarks

OPERATOR = "gated_rnn"
PATIENCE = 900.0  # seconds of a first run, in which compilers work
NOTHING = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")


class Moved(TorchDispatchMode):
    """Counts bytes that operations read and write; views move nothing.

    Example:
        >>> x = torch.ones(3)
        >>> with Moved() as moved:
        ...     y = (x + x.view(3)).reshape(1, 3)
        >>> moved.bytes
        24
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        is_view = all(tensor.untyped_storage().data_ptr() in storages for tensor in made)
        changes = func._schema.is_mutable
        if not func.name().startswith(NOTHING) and (changes or not is_view):
            read = given[1:] if "copy_" in func.name() else given
            self.bytes += sum(_once(read)) + sum(_once(made))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _once(tensors: Sequence[Tensor]) -> list[int]:
    """Bytes of different tensors; an expanded axis is one entry."""
    found = {}
    for tensor in tensors:
        sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
        found[tensor.data_ptr(), tuple(sizes)] = torch.Size(sizes).numel() * tensor.itemsize
    return list(found.values())


def contestants(case: Case, device: torch.device) -> list[tuple[str, Peer | None]]:
    """Ours first, then who is installed; prints who is not, and why."""
    found: list[tuple[str, Peer | None]] = [("cofm_triton.gated_rnn", None)]
    for peer in peers():
        if OPERATOR in peer.prepare:
            reason = missing(peer) or declines(peer, case, device)
            if reason is None:
                found.append((peer.name, peer))
            else:
                print(f"left out: {peer.name}: {reason}")
    return found


def moved(run: Callable[[], Any], numbers: int) -> float:
    """Numbers that a run moves for each of `numbers` of float32."""
    with Moved() as count:
        run()
    return count.bytes / (4 * numbers)


def row(name: str, peer: Peer | None, case: Case, seconds: float) -> str:
    """A line of the table."""
    entry = benchmarks()[OPERATOR]
    problem = entry.draw(case, torch.device("cpu"))
    runner: Contestant = entry.ours(problem) if peer is None else peer.prepare[OPERATOR](problem)
    target, numbers = torch.empty_like(problem.x), problem.x.numel()
    cells = []
    for pass_name, run in runner.passes().items():
        turns = Turns(lambda: target.copy_(problem.x), run, problem.x.device)
        turns.take(seconds, 3, PATIENCE)
        middle = turns.candidate_seconds().median
        cells += [f"{1e3 * middle:.4g}", f"{turns.ratio().median:.3g}"]
        if peer is None:
            cells.append(f"{(entry.bytes_moved(case, pass_name) or 0) / (4 * numbers):.1f}")
        else:
            cells.append("-" if peer.slow_to_compile else f"{moved(run, numbers):.1f}")
    return f"| {name} | {' | '.join(cells)} |"


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 1024, 512), metavar=("B", "T", "D"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, for each pass of each row")
    arguments = parser.parse_args(given)
    case = Case(OPERATOR, "targets", tuple(arguments.shape), torch.float32)
    load = machine.load()
    print(f"| {'x'.join(map(str, case.shape))}, float32 | ms | copies | moved | ms, both | copies | moved |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, peer in contestants(case, torch.device("cpu")):
        try:
            print(row(name, peer, case, arguments.seconds), flush=True)
        except Unsupported as reason:
            print(f"left out: {name}: {reason}")
    print(machine.caption(machine.describe(torch.device("cpu"), load)))


if __name__ == "__main__":
    main()
