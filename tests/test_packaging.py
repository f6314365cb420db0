"""The installed package: what it contains, what it imports, and that dependencies point one way."""

import ast
import importlib.metadata
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
    ["functional", "targets", "loss", "parameter_groups"],
    ["modules"],
    ["layers"],
    ["model_file"],
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


def run(code: str, cwd: Path) -> str:
    """Standard output of a fresh interpreter in `cwd`, without the repository on its path."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_version_comes_from_one_place() -> None:
    assert importlib.metadata.version("cofm-triton") == cofm_triton.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", cofm_triton.__version__)


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


def test_import_is_light(tmp_path: Path) -> None:
    """Optional and slow packages are imported where they are used, not by `import cofm_triton`."""
    code = """
import json, sys, torch
with_torch = set(sys.modules)
import cofm_triton
print(json.dumps(sorted(set(sys.modules) - with_torch)))
"""
    imported = {module.split(".")[0] for module in json.loads(run(code, tmp_path))}
    assert "cofm_triton" in imported
    assert not imported & {"matplotlib", "numba", "safetensors", "tqdm", "triton"}


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


def test_dependencies_point_one_way() -> None:
    graph = import_graph()
    assert set(graph) == set(RANK)  # every part has its row
    upwards = [
        f"{part} imports {other}" for part, others in graph.items() for other in others if RANK[other] >= RANK[part]
    ]
    assert not upwards


def test_import_reader_resolves_relative_imports(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    lines = ["import a.b", "from . import c", "from ..d import e", "def f():", "  from x import y"]
    source.write_text("\n".join(lines))
    assert set(imported_modules(source, "p.q")) == {"a.b", "p.q.c", "p.d.e", "x.y"}
