import io
from collections.abc import Iterator

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
    assert "5/5" in text
    assert ("\r" in text) == (stream is Terminal)


def test_lines_come_at_a_readable_rate_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step takes four seconds here."""

    def clock() -> Iterator[float]:
        yield from range(0, 1000, 4)

    ticks = clock()
    monkeypatch.setattr("cofm_triton.cli.progress.time.monotonic", lambda: next(ticks))
    with Progress(quiet=False).bar("training") as on_step:
        for done in range(1, 9):
            on_step(done, 8)
    assert capsys.readouterr().err.splitlines() == ["training", "training: 3/8", "training: 6/8", "training: 8/8"]
