"""The site of the documentation is built without a warning: links, references, docstrings and notebooks hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_site(tmp_path: Path) -> None:
    """One test, for one build: as `make docs` does it."""
    command = [
        sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going",
        "--conf-dir", "docs/site", "--doctree-dir", str(tmp_path / "read"), ".", str(tmp_path / "site"),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    pages = {page.relative_to(tmp_path / "site").as_posix(): page.read_text(encoding="utf-8")
             for page in (tmp_path / "site").rglob("*.html")}  # fmt: skip
    assert "url=docs/index.html" in pages["index.html"]
    assert "<math" in pages["docs/theory.html"]  # formulas are there without a script
    assert "--inject-fault" in pages["docs/commands.html"]
    for notebook in (REPOSITORY / "docs" / "examples").glob("*.ipynb"):
        assert "data:image/png" in pages[f"docs/examples/{notebook.stem}.html"]  # it ran, and drew
    # Nothing is fetched from elsewhere: the site works offline, and tells nobody who reads it.
    foreign = [(name, source) for name, text in pages.items() for source in re.findall(r'src="(https?:[^"]*)"', text)]
    assert not foreign
