"""No offset into a tensor is ever formed in 32 bits: read off the source of every kernel.

An integer argument of a kernel arrives in 32 bits when its value fits. So each one that is a size or a stride has to be
declared `tl.int64`, which every product it takes part in then is. Exempt are the counts of programs, `num_*`, which
only divide the program's number, and the strides of channels, `stride_*d`, which only multiply d; that, and every
number of a sequence that is multiplied, has to be widened by `.to(tl.int64)`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cofm_triton

KERNELS = sorted((Path(cofm_triton.__file__).parent / "kernels").glob("*.py"))
NARROW = {"pid", "sequence", "chunk"}


def is_kernel(node: ast.AST) -> bool:
    """A function that is launched: it reads its program's number."""
    return isinstance(node, ast.FunctionDef) and "program_id" in ast.dump(node)


FOUND = {
    f"{path.stem}.{node.name}": node
    for path in KERNELS
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and is_kernel(node)
}


def exempt(name: str) -> bool:
    return name.endswith("_ptr") or name.startswith("num_") or (name.startswith("stride_") and name.endswith("d"))


def narrow_variables(kernel: ast.FunctionDef) -> set[str]:
    """Names of 32-bit numbers: `NARROW`, and parts of a program's number."""
    found = set(NARROW)
    for node in ast.walk(kernel):
        match node:
            case ast.Assign([ast.Name(name)], ast.BinOp(op=ast.FloorDiv() | ast.Mod()) as part):
                found |= {name} if narrow_names(part, NARROW) else set()
    return found


def narrow_names(node: ast.expr, narrow: set[str]) -> set[str]:
    """Which of them an expression has, but for those inside a `.to(...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to":
        return set()
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.program_id":
        return {"program_id"}
    if isinstance(node, ast.Name):
        return {node.id} & narrow
    return set().union(
        *(narrow_names(child, narrow) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
    )


def narrow_products(kernel: ast.FunctionDef) -> list[str]:
    """Products with a factor that is the number of a program, sequence or chunk in 32 bits."""
    narrow = narrow_variables(kernel)
    return [
        ast.unparse(node)
        for node in ast.walk(kernel)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        if narrow_names(node.left, narrow) and not declared_wide(kernel, node.right)
    ]


def declared_wide(kernel: ast.FunctionDef, factor: ast.expr) -> bool:
    """Whether a factor is an argument declared tl.int64: then the product is one too."""
    return isinstance(factor, ast.Name) and declared(kernel).get(factor.id) == "tl.int64"


def declared(kernel: ast.FunctionDef) -> dict[str, str | None]:
    """What the arguments of a kernel are declared as."""
    return {
        argument.arg: None if argument.annotation is None else ast.unparse(argument.annotation)
        for argument in kernel.args.args
    }


def narrow_arguments(kernel: ast.FunctionDef) -> dict[str, str | None]:
    """Sizes and strides that arrive in 32 bits when their values fit."""
    accepted = ("tl.int64", "tl.constexpr", "tl.float64", "tl.float32")
    return {name: given for name, given in declared(kernel).items() if not exempt(name) and given not in accepted}


def test_kernels_are_found() -> None:
    assert len(FOUND) >= 4


def test_sizes_and_strides_are_declared_wide() -> None:
    assert not {name: narrow for name, kernel in FOUND.items() if (narrow := narrow_arguments(kernel))}
    assert all("tl.int64" in declared(kernel).values() for kernel in FOUND.values())


def test_channels_are_numbered_wide() -> None:
    for name, kernel in FOUND.items():
        definitions = [
            ast.unparse(node.value)
            for node in ast.walk(kernel)
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["d"]
        ]
        assert definitions or "BLOCK_D" not in declared(kernel), name
        assert all(".to(tl.int64) * BLOCK_D" in definition for definition in definitions), name


def test_no_narrow_number_is_multiplied() -> None:
    assert not {name: products for name, kernel in FOUND.items() if (products := narrow_products(kernel))}


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("row = sequence * D", False),
        ("row = sequence * width", True),
        ("row = sequence.to(tl.int64) * width", False),
        ("row = (sequence * num_chunks + chunk) * D", True),
        ("row = (sequence.to(tl.int64) * num_chunks + chunk) * D", False),
        ("row = (pid + 1) * BLOCK_D", True),
        ("row = tl.program_id(0) * BLOCK_D", True),
    ],
)
def test_the_lint_itself(line: str, caught: bool) -> None:
    kernel = ast.parse(f"def kernel(x_ptr, D: tl.int64, width, num_chunks):\n    {line}").body[0]
    assert isinstance(kernel, ast.FunctionDef)
    assert bool(narrow_products(kernel)) == caught
