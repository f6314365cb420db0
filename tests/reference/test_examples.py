import doctest
import importlib
import pkgutil

import pytest

from cofm_triton import reference

MODULES = [module.name for module in pkgutil.iter_modules(reference.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"{reference.__name__}.{name}")
    assert doctest.testmod(module, raise_on_error=True).failed == 0


def test_every_export_exists_once() -> None:
    assert len(set(reference.__all__)) == len(reference.__all__)
    assert all(hasattr(reference, name) for name in reference.__all__)
