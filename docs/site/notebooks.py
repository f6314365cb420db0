"""Notebooks as pages: their cells run while the site is built, and an error in one of them ends the build."""

from __future__ import annotations

import ast
import base64
import io
import json
from contextlib import redirect_stdout
from typing import Any

import matplotlib
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

FIGURE = "data:image/png;base64,"


def run(code: str, names: dict[str, Any]) -> str:
    """What a cell prints, the value of its last line included, and its figures, as Markdown."""
    from matplotlib import pyplot

    tree, printed = ast.parse(code), io.StringIO()
    last = tree.body[-1] if tree.body else None
    with redirect_stdout(printed):
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(tree.body[:-1], []), "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            if value is not None and not code.rstrip().endswith(";"):
                print(repr(value))
        else:
            exec(compile(tree, "cell", "exec"), names)
    text = f"```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", dpi=150)
        text += f"![figure]({FIGURE}{base64.b64encode(file.getvalue()).decode()})\n"
    pyplot.close("all")
    return text


def to_markdown(notebook: str) -> str:
    """A notebook's cells, and what its code gives."""
    names: dict[str, Any] = {"__name__": "__main__"}
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        parts.append(f"```python\n{source}\n```\n\n{run(source, names)}" if is_code else source)
    return "\n\n".join(parts)


class NotebookParser(MystParser):
    """Runs a notebook, and reads the result as a page."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill `document`."""
        matplotlib.use("agg")
        super().parse(to_markdown(inputstring), document)


def setup(app: Sphinx) -> dict[str, bool]:
    """Pages may be notebooks."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
