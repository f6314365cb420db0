"""How notebooks become pages: what cells print and show, and that an error ends the build."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("myst_parser")
pytest.importorskip("matplotlib")

SITE = Path(__file__).parents[2] / "docs" / "site"


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", SITE / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook(*cells: tuple[str, str]) -> str:
    return json.dumps({"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]})


def test_cells_share_names_and_show_what_they_give(notebooks: ModuleType) -> None:
    text = notebooks.to_markdown(notebook(("markdown", "# Title"), ("code", "a = 2\nprint(a)"), ("code", "a + 1")))
    assert text.split("\n\n")[0] == "# Title"
    assert "```text\n2\n```" in text and "```text\n3\n```" in text


def test_a_semicolon_keeps_the_last_value_back(notebooks: ModuleType) -> None:
    assert "```text" not in notebooks.to_markdown(notebook(("code", "1 + 1;")))


def test_figures_are_shown_once(notebooks: ModuleType) -> None:
    drawing = "from matplotlib import pyplot as plt\nfigure = plt.figure()"
    text = notebooks.to_markdown(notebook(("code", drawing), ("code", "print(1)")))
    assert text.count("data:image/png") == 1


def test_an_error_of_a_cell_is_an_error(notebooks: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError):
        notebooks.to_markdown(notebook(("code", "1 / 0")))
