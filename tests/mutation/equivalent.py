"""Mutants that change nothing anybody could see, and why."""

# By file and `Mutant.name`.
EQUIVALENT: dict[tuple[str, str], str] = {}
