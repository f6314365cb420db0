"""The installed package: what it contains, what it imports, and that dependencies point one way."""

import ast
import graphlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cofm_triton

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(cofm_triton.__file__).parent
LINK = REPOSITORY / "cofm_triton" / "reference"

# From the bottom of the house to its top. A part imports only what stands in rows before its own.
ROWS = [
    ["_version"],
    ["reference", "support"],
    ["step"],
    ["kernels", "cpu"],
    ["ops"],
    ["functional", "targets", "loss", "optim"],
    ["modules"],
    ["layers"],
    ["model_file"],
    ["distributed"],
    ["perturbation"],
    ["memory"],
    ["experiment"],
    ["__init__"],
    ["evidence"],
    ["cli"],
    ["__main__"],
]
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}


def sources(folder: Path) -> list[Path]:
    """The Python files below a folder, following the link to the reference where it is one."""
    return sorted(folder.resolve().rglob("*.py"))


def imported_modules(source: Path, package: str) -> Iterator[str]:
    """Absolute names of all that a file imports when it runs, `from a import b` as `a.b`, at any depth."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    yield from modules_named_in(tree, package)


def modules_named_in(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(base if node.level else []), *([node.module] if node.module else [])]
            yield from (".".join([*start, alias.name]) for alias in node.names)


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def package_of(source: Path, folder: Path, name: str) -> str:
    """The package that relative imports in `source` start from; `folder` is the package `name`."""
    return ".".join([name, *source.relative_to(folder.resolve()).parent.parts])


def part_of(module: str) -> str | None:
    """The part of the package that a module belongs to; None for other packages."""
    names = module.split(".")
    if names[0] != "cofm_triton":
        return None
    part = names[1] if len(names) > 1 else "__init__"
    is_module = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
    return part if is_module else "__init__"


def import_graph() -> dict[str, set[str]]:
    """Which part of the package imports which other parts."""
    graph: dict[str, set[str]] = {}
    for entry in sorted(PACKAGE.iterdir()):
        if entry.is_dir() and (entry / "__init__.py").is_file():
            files, folder, name = sources(entry), entry, f"cofm_triton.{entry.name}"
        elif entry.suffix == ".py":
            files, folder, name = [entry.resolve()], PACKAGE, "cofm_triton"
        else:
            continue
        modules = [m for f in files for m in imported_modules(f, package_of(f, folder, name))]
        parts = {part for module in modules if (part := part_of(module))}
        graph[entry.stem] = parts - {entry.stem}
    return graph


def module_graph() -> dict[str, set[str]]:
    """Which module of the package imports which others, at its head or later on.

    A package stands for its `__init__.py`. That Python runs this before any module below it is no import of the module:
    a package may hand on what its modules define.
    """
    files = {}
    for folder in (PACKAGE, LINK):  # no search for files follows a link
        for source in sources(folder):
            names = [*source.relative_to(folder.resolve()).with_suffix("").parts]
            names = ["cofm_triton", *folder.relative_to(PACKAGE).parts, *names]
            files[".".join(name for name in names if name != "__init__")] = source
    graph = {}
    for name, source in files.items():
        package = name if source.name == "__init__.py" else name.rpartition(".")[0]
        ours = (m for m in imported_modules(source, package) if m.split(".")[0] == "cofm_triton")
        graph[name] = {next(m for m in ancestry(module) if m in files) for module in ours} - {name}
    return graph


def ancestry(module: str) -> Iterator[str]:
    """The name itself, then the packages it is in."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def run(code: str, cwd: Path) -> str:
    """Standard output of a fresh interpreter in `cwd`, without the repository on its path."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_version_comes_from_one_place() -> None:
    assert importlib.metadata.version("cofm-triton") == cofm_triton.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", cofm_triton.__version__)


def pins(file: str) -> dict[str, set[str]]:
    """The releases that a file of requirements pins, by package."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", (REPOSITORY / file).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_the_lock_is_up_to_date() -> None:  # otherwise: `make lock`
    locked, chosen = pins(".ci/requirements.lock"), pins("constraints.txt")
    assert {name: locked[name] for name in locked.keys() & chosen.keys()} == {
        name: chosen[name] for name in locked.keys() & chosen.keys()
    }
    others = re.compile(r"""extra == ['"](peers|frameworks|matrix)['"]""")
    asked = [text for text in importlib.metadata.requires("cofm-triton") or () if not others.search(text)]
    names = {match[0] for text in asked if (match := re.match(r"[\w-]+", text))}
    assert names - {"cofm-triton", "editables", "torch", "triton"} <= locked.keys()  # `editables`: of this installation


def test_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_every_folder_is_a_package() -> None:
    folders = {source.parent for source in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_reference_is_part_of_the_package(tmp_path: Path) -> None:
    code = "import cofm_triton.reference as reference; print(reference.__name__)"
    assert run(code, tmp_path) == "cofm_triton.reference"


@pytest.mark.parametrize("name", ["reference", "tests", "bench"])
def test_claims_no_global_name(name: str, tmp_path: Path) -> None:
    files = importlib.metadata.files("cofm-triton") or []
    assert files
    assert not [file for file in files if file.parts[0] == name]
    # An editable install could also put the repository itself on the path.
    code = f"""
from importlib.util import find_spec
spec = find_spec({name!r})
print(*(spec.submodule_search_locations or [spec.origin]) if spec else ())
"""
    assert str(REPOSITORY) not in run(code, tmp_path)


def test_link_to_the_reference_is_relative() -> None:
    """An absolute link would break in every other clone; a source archive holds a copy instead."""
    assert LINK.is_dir()
    if LINK.is_symlink():
        assert LINK.readlink() == Path("..", "reference")


OPTIONAL = {"llvmlite", "matplotlib", "numba", "safetensors", "tqdm", "triton"}

# What a public name may load beside the operators and what they stand on. Each follows on the ones before.
NEEDS: list[tuple[str, set[str]]] = [
    ("__version__", {"_version", "cpu", "ops", "step", "support"}),
    ("parameterization", set()),
    ("linear_scan", {"functional"}),
    ("targets", {"targets"}),
    ("temporal_weights", {"loss"}),
    ("parameter_groups", {"optim"}),
    ("StableRNN", {"layers", "modules"}),
    ("perturbation_error", {"perturbation"}),
    ("memory_function", {"memory"}),
]


def test_a_name_loads_what_it_needs(tmp_path: Path) -> None:
    """A part of the package is imported with the first name that needs it; an optional package by none of them."""
    code = f"""
import json, sys, torch
seen = set(sys.modules)
def new():
    modules = set(sys.modules) - seen
    seen.update(modules)
    return sorted(modules)
import cofm_triton
print(json.dumps([(getattr(cofm_triton, name), new())[1] for name in {[name for name, _ in NEEDS]}]))
"""
    loaded = {"__init__"}
    for (name, parts), modules in zip(NEEDS, json.loads(run(code, tmp_path)), strict=True):
        new = {part for module in modules if (part := part_of(module))} - loaded
        assert new == parts, name
        loaded |= new
        assert not OPTIONAL & {module.split(".")[0] for module in modules}, name


@pytest.mark.parametrize("command", ["", "reproduce", "sweep", "memory", "stablessm", "bench", "kernels", "validate"])
def test_help_needs_no_torch(command: str) -> None:
    """The installed command and `python -m` answer without what computes."""
    words = [*command.split(), "--help"]
    code = f"""
import json, runpy, sys
sys.argv = ["/somewhere/bin/cofm", *{words}]
from cofm_triton.cli import main
try:
    main()
except SystemExit:
    print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "numpy", *OPTIONAL} & set(modules)
    light = {"__init__", "_version", "cli", "support", "step", "evidence"}  # of the last two, tables
    assert {part for module in modules if (part := part_of(module))} <= light


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cofm_triton", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: cofm ")
    assert " torch\n" not in done.stderr


def test_a_plain_import_registers_the_operators(tmp_path: Path) -> None:
    """As programs need it that torch.export made; whichever package is imported first."""
    code = "import cofm_triton, torch; print(torch.ops.cofm_triton.rnn_readout.default)"
    assert run(code, tmp_path) == "cofm_triton.rnn_readout.default"


LAZY = ["cofm_triton", "cofm_triton.layers", "cofm_triton.memory", "cofm_triton.perturbation"]


@pytest.mark.parametrize("name", LAZY)
def test_every_name_is_what_type_checkers_read(name: str) -> None:
    """Imports under TYPE_CHECKING, `__all__`, and imports on first use: the same names of the same modules."""
    package = importlib.import_module(name)
    (block,) = [node for node in ast.parse(inspect.getsource(package)).body if is_for_type_checkers(node)]
    assert isinstance(block, ast.If)
    homes = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(package.__all__) == set(homes) | ({"__version__"} & set(package.__all__))
    for public, home in homes.items():
        module = importlib.import_module(str(home))
        assert getattr(package, public) is getattr(module, public)
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", LAZY)
def test_no_lazy_name_is_that_of_a_module(name: str) -> None:
    """Importing the module would set the attribute, and the name mean the module from then on."""
    package = importlib.import_module(name)
    for public in package.__all__:
        if importlib.util.find_spec(f"{name}.{public}") is not None:
            assert inspect.ismodule(getattr(package, public)), public


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'cofm_triton' has no attribute 'linear_scam'"):
        cofm_triton.linear_scam  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'linear_scam' from 'cofm_triton'"):
        exec("from cofm_triton import linear_scam")


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from cofm_triton import *", names)
    assert set(cofm_triton.__all__) <= set(names)


# Imports stand at the top of a file, but for what most processes never need.
LATE = {
    *OPTIONAL,
    "fcntl",  # not everywhere
    "torch.distributed",
    "torch.fx.experimental",  # takes a second
    "cofm_triton.cpu.jit",  # numba
    "cofm_triton.kernels",  # triton
    "cofm_triton.evidence.host.floor",  # triton
    "cofm_triton.reference",  # runs where it is asked for by name
}


# A row has bodies in three languages; each imports its own.
ROWS_OF_BODIES = {"activations", "parameterizations"}


def test_late_imports_have_a_reason() -> None:
    """Commands of the command line parse their arguments before torch is there, and import what computes in `run`."""
    unexpected = []
    for source in sources(PACKAGE):
        part = source.relative_to(PACKAGE.resolve()).parts[0] if source.is_relative_to(PACKAGE.resolve()) else ""
        if part in {"", "cli"} or source.parent.name in ROWS_OF_BODIES:
            continue
        tree = ast.parse(source.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        late = {module for function in functions for module in modules_named_in(function, package="")}
        unexpected += [f"{source}: {m}" for m in late if not any(f"{m}.".startswith(f"{some}.") for some in LATE)]
    assert not unexpected


def test_command_line_is_declared() -> None:
    (script,) = importlib.metadata.distribution("cofm-triton").entry_points.select(name="cofm")
    assert script.value == "cofm_triton.cli:main"


def test_reference_stands_alone() -> None:
    """It imports torch, the standard library and itself, the latter by relative imports only."""
    allowed = {"reference", "torch", *sys.stdlib_module_names}
    for source in sources(REPOSITORY / "reference"):
        package = package_of(source, REPOSITORY / "reference", "reference")
        modules = list(imported_modules(source, package))
        assert {module.split(".")[0] for module in modules} <= allowed, source
        absolute = [
            node.module
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
        ]
        assert not [name for name in absolute if name.split(".")[0] == "reference"], source


def test_kernels_know_no_torch() -> None:
    for source in sources(PACKAGE / "kernels"):
        modules = imported_modules(source, "cofm_triton.kernels")
        assert "torch" not in {module.split(".")[0] for module in modules}, source


def test_the_oldest_triton_can_read_the_kernels() -> None:
    """Before 3.5 a kernel with `(a, b), c = ...` cannot be hashed: its reader of names takes a target for a name."""
    for source in sources(PACKAGE / "kernels"):
        for function in ast.walk(ast.parse(source.read_text())):
            if isinstance(function, ast.FunctionDef) and any("jit" in ast.dump(it) for it in function.decorator_list):
                lines = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Assign) and _nests(node)]
                assert not lines, f"{source.name}: {lines}"


def _nests(node: ast.Assign) -> bool:
    """Whether a target has targets inside."""
    parts = [part for target in node.targets if isinstance(target, ast.Tuple) for part in target.elts]
    return any(isinstance(part, (ast.Tuple, ast.List)) for part in parts)


def test_dependencies_point_one_way() -> None:
    graph = import_graph()
    assert set(graph) == set(RANK)  # every part has its row
    upwards = [
        f"{part} imports {other}" for part, others in graph.items() for other in others if RANK[other] >= RANK[part]
    ]
    assert not upwards


def test_no_circle_of_modules() -> None:
    """Also of imports inside of functions: a module can be read, and tested, once all that it imports is known."""
    order = graphlib.TopologicalSorter(module_graph())
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail("modules import one another: " + " <- ".join(error.args[1]))


def test_import_reader_resolves_relative_imports(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    lines = ["import a.b", "from . import c", "from ..d import e", "def f():", "  from x import y"]
    source.write_text("\n".join(lines))
    assert set(imported_modules(source, "p.q")) == {"a.b", "p.q.c", "p.d.e", "x.y"}
