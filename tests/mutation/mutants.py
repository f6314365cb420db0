"""Ways to break a file of code: one small change each, of the kinds that slip in by hand.

A mutant is text: the span of one node of the syntax tree, written another way. Docstrings, annotations and the
statements that raise errors stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

OPPOSITE: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Add(), ast.Div: ast.Mult(), ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.FloorDiv(),
}  # fmt: skip
BOUNDARY = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
TWINS = {"minimum": "maximum", "maximum": "minimum", "amax": "amin", "amin": "amax", "min": "max", "max": "min"}
PASSED_ON = {"conj", "resolve_conj", "contiguous", "flip", "abs"}  # methods that may be forgotten


class Mutant(NamedTuple):
    """One change of a file.

    Attributes:
        kind: of the change.
        line: where it is, from 1.
        before: the text that was there.
        after: what stands there now.
        text: the whole file.
    """

    kind: str
    line: int
    before: str
    after: str
    text: str

    @property
    def name(self) -> str:
        """`line: before -> after`, as the table of equivalent mutants names it."""
        return f"{self.before} -> {self.after}"


def mutants(text: str) -> list[Mutant]:
    """All mutants of a file, in the order of their places."""
    found = []
    for kind, node, after in _changes(ast.parse(text)):
        begin, end = _place(text, node.lineno, node.col_offset), _place(text, node.end_lineno, node.end_col_offset)
        before = text[begin:end]
        changed = text[:begin] + after + text[end:]
        found.append(Mutant(kind, node.lineno, " ".join(before.split()), " ".join(after.split()), changed))
    return sorted(found, key=lambda mutant: mutant.line)


def _place(text: str, line: int | None, column: int | None) -> int:
    """The index of a place in the text; columns count bytes of UTF-8."""
    assert line is not None and column is not None
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def _changes(tree: ast.Module) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """`(kind, node, text in its place)` of everything that is run."""
    for node in _run(tree):
        match node:
            case ast.BinOp(left, operator, right) if type(operator) in OPPOSITE:
                yield "wrong sign", node, f"({ast.unparse(ast.BinOp(left, OPPOSITE[type(operator)], right))})"
                if isinstance(operator, ast.Sub):
                    yield "swapped operands", node, f"({ast.unparse(ast.BinOp(right, operator, left))})"
                if isinstance(right, ast.Constant) and right.value == 1:
                    yield "shifted index", node, f"({ast.unparse(left)})"
            case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
                yield "wrong sign", node, f"({ast.unparse(operand)})"
            case ast.Compare(left, [operator], [right]) if type(operator) in BOUNDARY:
                yield "shifted bound", node, f"({ast.unparse(left)} {BOUNDARY[type(operator)]} {ast.unparse(right)})"
            case ast.If(test=test) | ast.IfExp(test=test):
                yield "other branch", test, f"(not ({ast.unparse(test)}))"
            case ast.Call(ast.Attribute(value, name), arguments) if name in PASSED_ON and not arguments:
                yield f"forgotten {name}", node, _factor(value)
            case ast.Call(ast.Attribute(value, "to"), [ast.Attribute(attr="int64")], []):
                yield "narrow offset", node, _factor(value)
            case ast.Call(ast.Attribute(value, name), arguments, words) if name in TWINS:
                yield "wrong extreme", node, ast.unparse(ast.Call(ast.Attribute(value, TWINS[name]), arguments, words))
            case ast.Call(ast.Name(name), arguments, words) if name in TWINS:
                yield "wrong extreme", node, ast.unparse(ast.Call(ast.Name(TWINS[name]), arguments, words))
            case ast.Call(keywords=keywords) if any(word.arg == "mask" for word in keywords):
                kept = [word for word in keywords if word.arg not in ("mask", "other")]
                yield "dropped mask", node, ast.unparse(ast.Call(node.func, node.args, kept))
            case ast.Call(ast.Name("range"), [stop]):
                yield "wrong start", node, f"range(1, {ast.unparse(stop)})"
            case ast.Expr(ast.Call(function)) if not ast.unparse(function).endswith("static_assert"):
                yield "skipped call", node, "pass"
            case ast.keyword(arg="reverse", value=value) if ast.unparse(value) != "False":
                yield "missing reverse", value, "False"


def _factor(node: ast.expr) -> str:
    """Its text, as it may stand in a product."""
    return f"({ast.unparse(node)})" if isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp) else ast.unparse(node)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below one, without annotations, decorators, defaults and errors."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise | ast.Import | ast.ImportFrom | ast.arguments | ast.JoinedStr):
            continue
        if isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield child.value
                yield from _run(child.value)
            continue
        if isinstance(child, ast.FunctionDef):
            for statement in child.body:
                yield statement
                yield from _run(statement)
            continue
        yield child
        yield from _run(child)
