"""What every test relies on: where Triton kernels run, and how hypothesis draws its examples."""

import os
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from rank_pool import RankPool
from selection import covering, evenly_spaced

QUICK = 5  # cases of a file

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
    examples = "calls that tests/test_fuzz.py draws anew, in place of its own number"
    parser.addoption("--examples", type=int, help=examples)
    seed = "of new calls, to draw the same ones again (default: another one every time)"
    # Workers inherit the environment: theirs is the seed that is printed.
    number = int(os.environ.setdefault("FUZZ_SEED", str(secrets.randbits(32))))
    parser.addoption("--fuzz-seed", type=int, default=number, help=seed)
    quick = f"at most {QUICK} cases of every test file, none of them marked as slow"
    parser.addoption("--quick", action="store_true", help=quick)


def pytest_report_header(config: pytest.Config) -> str:
    """What repeats the calls that are drawn anew."""
    return f"repeat with --fuzz-seed={config.option.fuzz_seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose among the cases of every test, and let compilation come first: it takes minutes a test, which at the end
    one process would spend while the other one waits.
    """
    items.sort(key=lambda item: item.path.stem != "test_compile")
    chosen = items[:]
    if not config.getoption("every_case"):
        functions = _grouped(items, lambda item: item.nodeid.partition("[")[0])
        chosen = [cases[kept] for cases in functions for kept in covering([_values(case) for case in cases])]
    if config.getoption("quick"):
        brief = [item for item in chosen if item.get_closest_marker("slow") is None]
        chosen = [item for file in _grouped(brief, lambda item: item.path) for item in evenly_spaced(file, QUICK)]
    left_out = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = chosen


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What libraries and processes of tests leave behind lies in pytest's folder, which goes after three sessions."""
    folder = str(tmp_path_factory.mktemp("t"))
    with patch.dict(os.environ, TMPDIR=folder), patch.object(tempfile, "tempdir", folder):
        yield


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """Processes that run cases together: one set for all tests of a session."""
    processes = RankPool()
    yield processes
    processes.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def _grouped(items: Iterable[pytest.Item], key: Callable[[pytest.Item], Any]) -> Collection[list[pytest.Item]]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups.values()


def _values(item: pytest.Item) -> dict[str, tuple[int, ...]]:
    """Which value every `parametrize` of a test has in this case, by the identity of what it lists."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    axes = [mark.args[0] for mark in item.iter_markers("parametrize")]
    names = [axis.replace(" ", "").split(",") if isinstance(axis, str) else axis for axis in axes]
    return {",".join(axis): tuple(id(params[name]) for name in axis) for axis in names}
