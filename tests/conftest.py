"""What every test relies on: where Triton kernels run, and how hypothesis draws its examples."""

import os
from collections import defaultdict

import pytest
import torch
from hypothesis import settings
from selection import covering, evenly_spaced

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
    every = "every case of tests with three parameters and more, instead of every pair of their values"
    parser.addoption("--every-case", action="store_true", help=every)
    slice = "at most N cases of every test function, evenly spaced"
    parser.addoption("--cases", type=int, metavar="N", help=slice)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose among the cases of every test function, and let compilation come first: it takes minutes a test, which at
    the end one process would spend while the other one waits.
    """
    items.sort(key=lambda item: item.path.stem != "test_compile")
    functions = defaultdict(list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    kept: set[pytest.Item] = set()
    for cases in functions.values():
        if not config.getoption("every_case"):
            cases = [cases[position] for position in covering([_values(case) for case in cases])]
        kept.update(evenly_spaced(cases, config.getoption("cases") or len(cases)))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _values(item: pytest.Item) -> dict[str, tuple[int, ...]]:
    """Which value every `parametrize` of a test has in this case, by the identity of what it lists."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    axes = [mark.args[0] for mark in item.iter_markers("parametrize")]
    names = [axis.replace(" ", "").split(",") if isinstance(axis, str) else axis for axis in axes]
    return {",".join(axis): tuple(id(params[name]) for name in axis) for axis in names}
