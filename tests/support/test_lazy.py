import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = """
from cofm_triton.support.lazy import lazy
__getattr__, __dir__ = lazy(__name__, {"": ["part"], "part": ["value"], "broken": ["other"]})
own = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "part.py").write_text("value = object()")
    (folder / "broken.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_modules_wait_for_their_first_name(package: str) -> None:
    module = __import__(package)
    assert f"{package}.part" not in sys.modules
    assert {"own", "part", "value", "other"} <= set(dir(module))
    value = module.value
    assert value is sys.modules[f"{package}.part"].value
    assert vars(module)["value"] is value  # no second search
    assert module.part is sys.modules[f"{package}.part"]


def test_errors_of_a_module_are_its_own(package: str) -> None:
    module = __import__(package)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        module.other  # noqa: B018
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert not hasattr(module, "__path_of_another__")
