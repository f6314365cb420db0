import io

import pytest

from cofm_triton.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_bars_on_a_terminal_lines_elsewhere_silence_when_quiet(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, stream: type[io.StringIO]
) -> None:
    error = stream()
    monkeypatch.setattr("sys.stderr", error)
    progress = Progress(quiet)
    progress.line("hello")
    with progress.bar("training") as on_step:
        for done in range(1, 6):
            on_step(done, 5)
    text = error.getvalue()
    if quiet:
        assert text == ""
        return
    assert text.startswith("hello\n")
    assert "training" in text
    assert ("5/5" in text) == (stream is Terminal)
