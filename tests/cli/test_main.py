import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cofm_triton import __version__, targets
from cofm_triton.cli import COMMANDS, main
from cofm_triton.cli.jobs.data import HORIZON, data_seed
from cofm_triton.cli.options import SEED_BITS, seed
from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.validation.cases import cases
from cofm_triton.experiment.training import initial_model


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
        (["reproduce", "--seed", "9999999999999999999999"], "expected an integer >= 0 and < 2^43, got '99999"),
        (["sweep", "m", "--target", "exp", "--seed", "7000000000000000000"], "expected an integer >= 0 and < 2^43"),
        *(([name, "--seed", str(2**43)], "expected an integer >= 0 and < 2^43") for name in COMMANDS),
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


def test_seeds_below_the_bound_are_those_of_all_generators() -> None:
    largest = seed(str(2**SEED_BITS - 1))
    assert targets.generate("exp", 1, 2, seed=data_seed(largest, HORIZON))[0].isfinite().all()
    assert initial_model(512, parameterization="exp", seed=largest).rnn.rate_l0.isfinite().all()
    chosen = tuple(validations())
    for interpreted in (False, True):
        for case in cases(chosen, largest, interpreted=interpreted, exhaustive=True):
            assert case.seed < 2**63


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    "words",
    [
        ["reproduce"],
        ["sweep", "m", "--target", "exp"],
        ["memory", "m"],
        ["bench"],
        ["kernels"],
        ["validate"],
        ["validate", "--replay", "linear_scan:time-invariant:float32:1x3x2:h0:7:torch@cpu"],
    ],
)
def test_cuda_without_a_gpu_is_wrong_usage(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "kernels":
        pytest.importorskip("triton")
    assert main([*words, "--device", "cuda", "--out", str(tmp_path / "x")]) == 2
    printed = capsys.readouterr()
    assert "--device cuda: torch finds no CUDA device here" in printed.err
    assert printed.out == ""  # refused before any work
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["bench", "--operators", "rnn_scan"], "cofm_triton.evidence.benchmark.scaling.measure_scaling"),
        (["kernels"], "cofm_triton.evidence.compilation.run.compile_all"),
        (["validate"], "cofm_triton.evidence.validation.run.run"),
        (
            ["validate", "--replay", "linear_scan:time-invariant:float32:1x3x2:h0:7:torch@cpu"],
            "cofm_triton.evidence.validation.run.run",
        ),
    ],
)
@pytest.mark.parametrize("below", ["", "below"])
def test_out_is_refused_before_any_work(
    words: list[str],
    work: str,
    below: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "kernels":
        pytest.importorskip("triton")
    monkeypatch.setattr(work, lambda *args, **options: pytest.fail("has begun"))
    (tmp_path / "file").write_text("mine")
    assert main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path / "file" / below)]) == 2
    assert "must be a folder that can be made and written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_module_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "cofm_triton", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["cofm_triton", __version__]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "out/errors.csv"), "error: [Errno 28] No space left on device: 'out/e"),
        (KeyError("values"), "KeyError: 'values'"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
)
def test_a_failure_is_no_answer(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr("cofm_triton.cli.reproduce.run", fail)
    assert main(["reproduce"]) == 3
    assert message in capsys.readouterr().err
