"""`make matrix`: the quick tests with the oldest and with the newest releases that we say we work with.

On Linux, PyPI's PyTorch is the build for CUDA: each of the two environments takes 7 GB, a third of it to fetch.
docs/versions.md says how to take the build for CPUs.
"""

import re
import shutil
import subprocess

import nox

nox.options.error_on_missing_interpreters = False  # a row for what there is


PROJECT = nox.project.load_toml("pyproject.toml")["project"]
MINORS = sorted(int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"])))


def starts(python: str) -> bool:
    """Whether there is such a Python; pyenv has a name for each that it knows, which starts only those switched on."""
    return shutil.which(python) is not None and not subprocess.run([python, "-c", ""], capture_output=True).returncode


def newest() -> str:
    """The newest Python that is here, of those we support."""
    pythons = [f"3.{minor}" for minor in range(MINORS[-1], MINORS[0], -1)]
    return next((python for python in pythons if starts(f"python{python}")), pythons[0])


def oldest() -> list[str]:
    """The first minor release of everything that pyproject.toml asks users to have, at its last patch."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["cpu"], *extras["plot"], *extras["reproduce"]]
    parts = [re.fullmatch(r"([\w-]+)>=([\d.]+)[^;]*(;.*)?", requirement) for requirement in asked]
    return [f"{part[1]}=={part[2]}.*{part[3] or ''}" for part in parts if part]


@nox.session(python=f"3.{MINORS[0]}")
def oldest_releases(session: nox.Session) -> None:
    """On the oldest Python."""
    session.install(*oldest(), "-e", ".[test]")
    session.run("python", "tests/versions.py", *session.posargs)


@nox.session(python=newest())
def newest_releases(session: nox.Session) -> None:
    """On the newest Python that is here."""
    session.install("-e", ".[test]")
    session.run("python", "tests/versions.py", *session.posargs)
