import io

import pytest

from cofm_triton.cli import progress as module
from cofm_triton.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_bars_on_a_terminal_lines_elsewhere_silence_when_quiet(monkeypatch, quiet, stream):
    error = stream()
    monkeypatch.setattr(module.sys, "stderr", error)
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
