"""Every example of a docstring and every code block of the pages is right: it runs, and shows what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import cofm_triton
from cofm_triton.cli import _parser

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(cofm_triton.__file__).parent
OPTIONAL = ("numba", "triton", "matplotlib", "safetensors", "tqdm")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def module_name(source: Path) -> str:
    parts = [PACKAGE.name, *source.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(source: Path) -> Iterator[tuple[str, str, int]]:
    """`(name, docstring, line)` of everything in a file that has one: also what a decorator has made of it."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "name", source.stem), text, node.body[0].lineno - 1


SOURCES = sorted({*PACKAGE.rglob("*.py"), *(PACKAGE / "reference").glob("*.py")})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples may write files, and draw random numbers."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("source", [s for s in SOURCES if ">>> " in s.read_text(encoding="utf-8")], ids=module_name)
def test_docstrings(source: Path) -> None:
    try:
        module = importlib.import_module(module_name(source))
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise
    for name, text, line in docstrings(source):
        run(doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, str(source), line))


def run(example: doctest.DocTest) -> None:
    if example.examples:
        shown: list[str] = []
        result = doctest.DocTestRunner(verbose=False).run(example, out=shown.append)
        assert result.failed == 0, "".join(shown)


def test_examples_can_be_run() -> None:
    """Under the heading stands something that an interpreter was asked."""
    sections = [
        (source, name, section)
        for source in SOURCES
        for name, text, _ in docstrings(source)
        for section in re.findall(r"^ *Examples?:\n((?:\n| +.*\n?)+)", text, re.MULTILINE)
    ]
    assert len(sections) > 70
    assert not [(source, name) for source, name, section in sections if not section.lstrip().startswith(">>> ")]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page(page: Path) -> None:
    """One block after the other, as a reader would type them."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language in {"python", "py"}:
            if block.text.lstrip().startswith(">>> "):
                run(doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line))
            else:
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a page."""
    for block in blocks(page):
        if block.language in {"sh", "bash", "shell", "console"}:
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page(page: Path) -> None:
    """Their options are known to the commands; targets of `make` are there."""
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0] == "cofm":
            check_options(words[1:])
        elif "cofm_triton" in words:  # python -m, torchrun -m
            check_options(words[words.index("cofm_triton") + 1 :])


def check_options(words: list[str]) -> None:
    try:
        _parser(words).parse_args(words)
    except SystemExit as error:
        assert error.code == 0, words  # --help and --version


def test_wrong_examples_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nvalue = 1\n```\n\n```py\nassert value == 2\n```\n")
    with pytest.raises(AssertionError):
        test_python_of_a_page(page)
    page.write_text("```sh\ncofm sweep a.safetensors --no-such-option 1  # a comment\n```\n")
    with pytest.raises(AssertionError, match="no-such-option"):
        test_commands_of_a_page(page)
    page.write_text("```sh\nmake nothing\n```\n")
    with pytest.raises(AssertionError, match="nothing"):
        test_commands_of_a_page(page)
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "sum", None, 0)
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run(wrong)
