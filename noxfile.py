"""`make matrix`: the quick tests with the oldest and with the newest releases that we say we work with."""

import re

import nox

nox.options.error_on_missing_interpreters = False  # a row for what there is


PROJECT = nox.project.load_toml("pyproject.toml")["project"]


def oldest() -> list[str]:
    """The first minor release of everything that pyproject.toml asks users to have, at its last patch."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["cpu"], *extras["plot"], *extras["reproduce"]]
    floors = [re.match(r"([\w-]+)>=([\d.]+)", requirement) for requirement in asked]
    return [f"{floor[1]}=={floor[2]}.*" for floor in floors if floor]


@nox.session(python="3.10")
def oldest_releases(session: nox.Session) -> None:
    """On the oldest Python."""
    session.install(*oldest(), "-e", ".[test]")
    session.run("python", "tests/versions.py", *session.posargs)


@nox.session(python=[f"3.{minor}" for minor in range(14, 10, -1)])
def newest_releases(session: nox.Session) -> None:
    """On the newest Python that is here."""
    session.install("-e", ".[test]")
    session.run("python", "tests/versions.py", *session.posargs)
