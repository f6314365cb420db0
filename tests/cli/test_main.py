import subprocess
import sys

import pytest

from cofm_triton import __version__
from cofm_triton.cli import COMMANDS, main


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if len(argv) == 1:
        assert all(name in text for name in COMMANDS)
    else:
        assert all(option in text for option in ("--out", "--device", "--seed"))


def test_version(capsys):
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
def test_wrong_usage_is_status_2_and_says_what_is_accepted(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_imports_no_torch():
    code = (
        "import sys, contextlib\n"
        "from cofm_triton.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['reproduce', '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "cofm_triton", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["cofm_triton", __version__]
