"""Commands that are killed, and folders that cannot be written: what is left, and whether the same command goes on.

    make faults ARGS="--commands memory,sweep --kills 50"

Every command runs once undisturbed. Then it is killed (signal 9), again and again in the same folder, until it comes to
its end: half of the kills come at any moment, half of them as it makes, writes or renames a file. After each kill every
file that is there is whole; at the end the files are, byte for byte, those of the undisturbed run, but for times, and
nothing is left over: no unfinished file, no lock, no process. Then its disk is full, its folder is read-only, and two
of it write to one folder.

Runs are forks of this process, which has imported PyTorch and computed nothing: most kills then hit work and writing,
not imports. Exit status 1: something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

MODEL = "model.safetensors"
LEFT = (".part-", ".writer")  # how the names of what must not be left begin
IMPORTED = (
    "cofm_triton.cli", "cofm_triton.experiment.training", "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg", "numba", "safetensors.torch", "torch._dynamo", "tqdm", "triton",
)  # fmt: skip
BLOCK = resource.getpagesize()  # bytes, of a file system in memory
WORKS = 20.0  # seconds: what a process needs to see that its parent is gone, many times over


class Command(NamedTuple):
    """A command of `cofm` in its shortest form.

    Attributes:
        words: what is called, without --out.
        repeats: whether two runs write the same bytes; otherwise their files have the same names.
        answers: exit statuses of a run that came to its end.
        locks: whether a second writer is refused.
    """

    words: Sequence[str]
    repeats: bool = True
    answers: tuple[int, ...] = (0,)
    locks: bool = True


_SMALL = ("--nonlinearities", "hardtanh", "--parameterizations", "exp", "--widths", "2,4", "--targets", "exp")
COMMANDS = {
    "memory": Command(("memory", MODEL, "--length", "40", "--perturb", "0,0.1", "--directions", "2")),
    "sweep": Command(("sweep", MODEL, "--target", "exp", "--sequences", "8", "--length", "20", "--directions", "2")),
    "reproduce": Command(("reproduce", "--preset", "smoke", *_SMALL), answers=(0, 1, 4)),
    "stablessm": Command(
        ("stablessm", "--parameterizations", "exp", "--learning-rates", "0.1", "--steps", "3", "--seeds", "1")
    ),
    "validate": Command(("validate", "--operators", "memory_increment"), repeats=False, locks=False),
    "bench": Command(("bench", "--preset", "smoke", "--operators", "linear_scan"), repeats=False),
    "kernels": Command(
        ("kernels", "--targets", "gfx942", "--operators", "activation_gradient"), repeats=False, locks=False
    ),
    "info": Command(("info",), repeats=False, locks=False),
}


class Run:
    """A command in a process of its own.

    Args:
        words: as on the command line.
        folder: where it runs.
        limit: bytes that a file may have at most, as on a disk that is full.
    """

    def __init__(self, words: Sequence[str], folder: Path, limit: int | None = None) -> None:
        # A pipe, since a file could not grow either; what a command says fits into it.
        self._output, output = os.pipe()
        self._said = b""
        self.process = os.fork()
        if self.process == 0:
            self._be(words, folder, limit, output)
        os.close(output)

    def _be(self, words: Sequence[str], folder: Path, limit: int | None, output: int) -> None:
        """What the new process does, and nothing after it."""
        status = 70
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(folder)
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            from cofm_triton.cli import main

            status = main([*words, "--device", "cpu", "--quiet"])
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def status(self) -> int:
        """Waits for the end; -9 if it was killed."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        _ = self.said  # lets go of the pipe
        return status

    def killed(self, moment: Callable[[], bool]) -> bool:
        """Kill it at a moment, unless it ends before."""
        while not moment():
            if os.waitpid(self.process, os.WNOHANG)[0]:
                _ = self.said
                return False
            time.sleep(0.001)
        os.kill(self.process, signal.SIGKILL)
        return self.status() == -signal.SIGKILL

    def descendants(self) -> list[int]:
        """Processes that it has started and that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def leaves_nobody(self) -> bool:
        """Whether its processes end before long."""
        end = time.monotonic() + WORKS
        while self.descendants():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    @property
    def said(self) -> str:
        """Its output, once it has ended."""
        if self._output >= 0:
            os.set_blocking(self._output, False)  # a process that it left behind may hold the other end
            with suppress(BlockingIOError):
                self._said = os.read(self._output, 2**20)
            os.close(self._output)
            self._output = -1
        return self._said.decode(errors="replace")


class Check:
    """One command, and what is found about it.

    Args:
        name: key of `COMMANDS`.
        folder: an empty one.
        seed: of the moments of kills.
    """

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        self.name, self.command, self.folder = name, COMMANDS[name], folder
        self.random = random.Random(seed)
        self.found: list[str] = []
        _save_model(folder / MODEL)
        begin = time.monotonic()
        self.expect(self.run("whole").status() in self.command.answers, "the undisturbed run failed")
        begin = time.monotonic()  # again: now code is compiled and lies on the disk
        self.run("whole-again").status()
        self.seconds = time.monotonic() - begin
        self.whole = self.contents("whole")
        self.compare("whole-again", "a second run")

    def run(self, out: str, limit: int | None = None) -> Run:
        """Start the command with a folder for its results."""
        return Run([*self.command.words, "--out", out], self.folder, limit)

    def expect(self, right: bool, otherwise: str, said: str = "") -> None:
        """Keep a finding."""
        if not right:
            self.found.append(f"{self.name}: {otherwise}" + (f": {said.strip()[-600:]}" if said.strip() else ""))

    def contents(self, out: str) -> dict[str, bytes]:
        """Every file of the results, by its path."""
        root = self.folder / out
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def compare(self, out: str, what: str) -> None:
        """A folder holds what an undisturbed run writes."""
        found = self.contents(out)
        different = sorted(set(found) ^ set(self.whole))
        if self.command.repeats:
            different += [name for name in set(found) & set(self.whole) if found[name] != self.whole[name]]
        self.expect(not different, f"{what} ends with other files: {', '.join(different[:5])}")

    def any_moment(self) -> Callable[[], bool]:
        """Whether a moment has come that lies within an undisturbed run."""
        end = time.monotonic() + self.random.uniform(0, self.seconds)
        return lambda: time.monotonic() > end

    def writing_moment(self, out: str) -> Callable[[], bool]:
        """Whether a folder has changed so many times: a file has come, has become longer, or has another name."""
        seen, left = self._listing(out), self.random.randint(1, 3 * len(self.whole))

        def has_come() -> bool:
            nonlocal seen, left
            now = self._listing(out)
            seen, left = now, left - (now != seen)
            return left <= 0

        return has_come

    def _listing(self, out: str) -> dict[str, int]:
        """Names and sizes."""
        found = {}
        for path in (self.folder / out).rglob("*"):
            with suppress(OSError):  # it has just been renamed
                found[str(path)] = path.stat().st_size
        return found

    def kills(self, count: int) -> int:
        """Kill it so many times, and let it end as often as it gets there; returns how often it did."""
        out, ends = "killed-0", 0
        while count > 0:
            moment = self.writing_moment(out) if count % 2 else self.any_moment()
            run = self.run(out)
            if run.killed(moment):
                count -= 1
                self.expect(run.leaves_nobody(), "its processes outlive it")
                for path in torn(self.folder / out):
                    self.expect(False, f"a kill left {path.name} torn")
                continue
            ends += self._ended(out, run)
            out = f"killed-{ends}"
        last = self.run(out)
        self.expect(last.status() in self.command.answers, "after kills it did not end", last.said)
        return ends + self._ended(out, last)

    def _ended(self, out: str, run: Run) -> int:
        self.expect("Traceback" not in run.said, "after kills it raised", run.said)
        self.compare(out, "a killed and continued run")
        return 1

    def full_disk(self) -> None:
        """Files cannot grow beyond some bytes, which become more and more: status 3 each time. With room it ends."""
        largest = max(map(len, self.whole.values()))
        for limit in sorted({0, 100, largest // 2, largest * 7 // 8}):  # times and counts differ by a few bytes
            run = self.run("full", limit)
            status = run.status()
            self.expect(status in (2, 3), f"with files of at most {limit} bytes its status is {status}", run.said)
            self.expect("error: " in run.said and "Traceback" not in run.said, f"{limit} bytes: what it says", run.said)
        again = self.run("full")
        self.expect(again.status() in self.command.answers, "with room again it did not end", again.said)
        self.compare("full", "a run whose disk was full")

    def small_disk(self) -> None:
        """The same on a file system that has half of the blocks it takes, as root on Linux alone."""
        half = sum(map(len, self.whole.values())) // 2 // BLOCK
        with _mounted(self.folder / "small", f"size={(half + 1) * BLOCK}") as mounted:
            if mounted:
                (self.folder / "small" / "full").write_bytes(bytes(BLOCK))  # a file of one block has none then
                run = self.run("small/out")
                self.expect(run.status() == 3, "on a full file system its status is not 3", run.said)
                self.expect("No space left" in run.said and "Traceback" not in run.said, "what it says", run.said)
                self.expect(not list(torn(self.folder / "small")), "a full file system left a torn file")

    def read_only(self) -> None:
        """A folder that cannot be written is wrong usage, and is said before work begins."""
        with _mounted(self.folder / "fixed", "ro") as mounted:
            if mounted:
                run = self.run("fixed/out")
                self.expect(run.status() == 2, "a read-only folder is not status 2", run.said)
                self.expect("--out" in run.said and "Traceback" not in run.said, "what it says", run.said)

    def two_writers(self) -> None:
        """Two at a time: one of them does the work, or they write the same."""
        runs = [self.run("shared"), self.run("shared")]
        statuses = [run.status() for run in runs]
        said = " / ".join(run.said for run in runs)
        if self.command.locks:
            refused = [run for run, status in zip(runs, statuses, strict=True) if status == 2]
            self.expect(len(refused) < 2, "two writers refuse each other", said)
            self.expect(all("writes to" in run.said for run in refused), "the refusal names no writer", said)
        self.expect(any(status in self.command.answers for status in statuses), "of two writers none ends", said)
        self.compare("shared", "a folder of two writers")


def _save_model(path: Path) -> None:
    """By a process of its own: this one computes nothing."""
    code = (
        "import sys, torch, cofm_triton as cofm; from cofm_triton.model_file import save_model; torch.manual_seed(0);"
        "save_model(sys.argv[1], cofm.RNNFunctional(1, 3, nonlinearity='tanh', dtype=torch.float64))"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def torn(root: Path) -> Iterator[Path]:
    """Files under their final names that are not whole."""
    from safetensors import SafetensorError, safe_open

    for path in root.rglob("*"):
        if not path.is_file() or path.name.startswith(LEFT):
            continue
        content = path.read_bytes()
        mark, _, marked = content.partition(b"\n")
        try:
            match path.suffix:
                case ".json" | ".csv" if mark.startswith(b'["'):  # a step of `cofm reproduce`: its mark has a digest
                    assert json.loads(mark)[2] == hashlib.sha256(marked).hexdigest()
                case ".json":
                    json.loads(content)
                case ".safetensors":
                    with safe_open(path, framework="np"):
                        pass
                case ".png":
                    whole = content.endswith(b"IEND\xaeB`\x82")
                    assert whole
                case ".pdf":
                    assert content.rstrip().endswith(b"%%EOF")
                case ".svg":
                    assert content.rstrip().endswith(b"</svg>")
                case ".csv":
                    rows = {line.count(b",") for line in content.splitlines()}
                    assert content.endswith(b"\n") and len(rows) == 1
        except (AssertionError, SafetensorError, ValueError):
            yield path


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[bool]:
    """A small file system in memory, where this process may mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


FAULTS = ("full_disk", "small_disk", "read_only", "two_writers")


def check(name: str, kills: int, faults: Sequence[str], seed: int) -> tuple[list[str], str]:
    """What is found about a command, and what was done."""
    with tempfile.TemporaryDirectory() as folder:
        test = Check(name, Path(folder), seed)
        ends = test.kills(kills)
        for fault in faults:
            getattr(test, fault)()
    return list(dict.fromkeys(test.found)), f"{kills} kills over {ends} runs of {test.seconds:.1f} s"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="faults", description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--commands", default=",".join(COMMANDS), help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=50, help="of every command (default: %(default)s)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="besides kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args(words)
    for name in IMPORTED:  # once, for all runs
        import_module(name)
    findings = 0
    for name in arguments.commands.split(","):
        found, done = check(name, arguments.kills, arguments.faults.split(","), arguments.seed)
        print(f"{name}: {done}; {len(found)} findings", *found, sep="\n  ", flush=True)
        findings += len(found)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
