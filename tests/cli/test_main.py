import subprocess
import sys

import pytest

from cofm_triton import __version__
from cofm_triton.cli import COMMANDS, main


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if len(argv) == 1:
        assert all(name in text for name in COMMANDS)
    else:
        assert all(option in text for option in ("--out", "--device", "--seed"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["reproduce", "--seed", "-1"], "expected an integer >= 0, got '-1'"),
        (["reproduce", "--seed", "x"], "expected an integer >= 0, got 'x'"),
        (["reproduce", "--widths", "8,0"], "expected an integer >= 1, got '0'"),
        (["reproduce", "--widths", "8,8"], "'8,8' names something twice"),
        (["reproduce", "--targets", "exp,sine"], "'sine' is not one of exp, pol"),
        (["reproduce", "--parameterizations", ""], "'' is not one of direct"),
        (["reproduce", "--preset", "huge"], "invalid choice: 'huge'"),
        (["reproduce", "--device", "abacus"], "invalid choice: 'abacus'"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_accepted(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_line_itself_imports_no_torch_for_help() -> None:
    # The package's __init__ is left out: what it imports is not the command line's choice.
    code = (
        "import sys, types, contextlib, importlib.util\n"
        "spec = importlib.util.find_spec('cofm_triton')\n"
        "package = sys.modules['cofm_triton'] = types.ModuleType('cofm_triton')\n"
        "package.__path__ = spec.submodule_search_locations\n"
        "from cofm_triton.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['reproduce', '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_module_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "cofm_triton", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["cofm_triton", __version__]
