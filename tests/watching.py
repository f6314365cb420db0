"""Watching what the code under test finds, without changing it."""

from __future__ import annotations

from typing import Any

import pytest


def watch(module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of `module.name` from now on finds something, not None, as they come."""
    found: list[bool] = []
    function = getattr(module, name)

    def watched(*arguments: Any) -> Any:
        result = function(*arguments)
        found.append(result is not None)
        return result

    monkeypatch.setattr(module, name, watched)
    return found
