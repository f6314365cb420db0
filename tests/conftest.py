"""What every test relies on: where Triton kernels run, and how hypothesis draws its examples."""

import os
from collections import defaultdict

import pytest
import torch
from hypothesis import settings

# Triton decides when a kernel is defined whether it is interpreted or compiled, so this has to come
# before the first import of a kernel. Ahead-of-time compilation needs a process without it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Just-in-time compilation makes first examples slow; drawing the same examples in every run keeps a
# failure reproducible from the test's name alone.
settings.register_profile("cofm_triton", deadline=None, derandomize=True)
settings.load_profile("cofm_triton")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already share the cores


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "at most N cases of every test function, evenly spaced among all of them"
    parser.addoption("--cases", type=int, metavar="N", help=help)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Compilation comes first: minutes a test, which at the end one process would spend while the other one waits."""
    items.sort(key=lambda item: item.path.stem != "test_compile")
    if most := config.getoption("cases"):
        kept = set(_evenly_spaced(items, most))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def _evenly_spaced(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    functions = defaultdict(list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    return [
        cases[position * len(cases) // min(most, len(cases))]
        for cases in functions.values()
        for position in range(min(most, len(cases)))
    ]
