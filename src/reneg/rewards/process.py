"""A scorer in a process of its own, with its own Python and packages: JSON lines, pictures as PNG files.

For scorers whose pins clash with reneg's. The protocol is in docs/process_scorers.md.
"""

import io
import json
import os
import signal
import subprocess
import tempfile
import time
import tomllib
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any, NoReturn, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reneg.report import to_uint8

PROTOCOL = 1
LONGEST_LINE = 1 << 20
"""Bytes of an answer."""
STOP_SECONDS = 5.0
"""How long a scorer may take to end after its input was closed."""
TIMEOUT = 600.0
KEYS = ("name", "command", "timeout")


@dataclass(frozen=True)
class ProcessSettings:
    """What a scorer's .toml file says."""

    name: str
    """Shown in the reports."""
    command: list[str]
    """The program and its arguments; no shell reads them."""
    folder: Path
    """Where it starts: the file's own."""
    timeout: float = TIMEOUT
    """Seconds that each answer may take, loading the weights included."""


def is_process(reward: str) -> bool:
    """Whether a reward's name is the file of a scorer in another process."""
    return reward.endswith(".toml")


def read_process(file: Path) -> ProcessSettings:
    """The settings in a scorer's .toml file.

    Raises:
        ValueError: it is missing, or holds something else; in one line.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"reward {str(file)!r} cannot be read ({error})") from error
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ValueError(f"reward {str(file)!r} has {unknown[0]!r}, which is none of {', '.join(KEYS)}")
    command, name, timeout = content.get("command"), content.get("name", file.stem), content.get("timeout", TIMEOUT)
    if not isinstance(command, list) or not command or not all(isinstance(part, str) and part for part in command):
        raise ValueError(f'reward {str(file)!r} needs command = ["PROGRAM", "ARGUMENT", ...]; got {command!r}')
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"reward {str(file)!r} has the name {name!r}; give a text of one line")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e6:
        raise ValueError(f"reward {str(file)!r} has the timeout {timeout!r}; give the seconds of one answer, above 0")
    return ProcessSettings(name, command, file.resolve().parent, float(timeout))


def process_files(file: Path) -> list[Path]:
    """A scorer's .toml file and the files that its command names: their content identifies the scores.

    Raises:
        ValueError: as for `read_process`.
    """
    settings = read_process(file)
    named = [settings.folder / part for part in settings.command]
    return [file, *(path for path in named if os.path.isfile(path))]  # os.path: a long argument is no error


class ProcessReward:
    """Scores from a scorer's own process, which lives as long as this object; no gradient."""

    def __init__(self, settings: ProcessSettings):
        """Start the scorer, and wait until it says that it is ready.

        Raises:
            ValueError: it does not start, or says something else; in one line.
        """
        self.name, self._settings, self._timeout = settings.name, settings, settings.timeout
        self._requests = 0
        self._failure: str | None = None
        """What went wrong; later calls say it again instead of writing to a process that is gone."""
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                settings.command,
                cwd=settings.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,  # nothing is left to write when the input is closed
                start_new_session=True,  # so that it ends with all that it started
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            raise ValueError(f"reward {self.name!r}: cannot start {settings.command[0]!r} ({error})") from error
        self._input = cast(io.RawIOBase, self._process.stdin)
        self._output = cast(io.RawIOBase, self._process.stdout)
        self._unread = b""
        os.set_blocking(self._input.fileno(), False)  # a long request fills the pipe while the scorer does not read
        self._close = weakref.finalize(self, _stop, self._process, self._input, self._output, self._errors)
        greeting = self._exchange(None)
        if greeting.get("protocol") != PROTOCOL:
            self._fail(
                f"must begin with {json.dumps({'protocol': PROTOCOL})}, and said {_shorten(json.dumps(greeting))}"
            )

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """The scores of pictures, rounded to 8 bits.

        Raises:
            ValueError: a gradient is asked for, or the scorer fails; in one line.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            raise ValueError(no_gradient(self.name))
        self._requests += 1
        with tempfile.TemporaryDirectory(prefix="reneg-", ignore_cleanup_errors=True) as folder:
            paths = [str(Path(folder) / f"{number}.png") for number in range(len(images))]
            for path, pixels in zip(paths, to_uint8(images).numpy(), strict=True):
                Image.fromarray(pixels).save(path)
            answer = self._exchange({"id": self._requests, "images": paths, "prompts": list(prompts)})
        if answer.get("id") != self._requests:
            self._fail(f"answered request {_shorten(json.dumps(answer.get('id')))} instead of {self._requests}")
        return torch.tensor(self._read_scores(answer, len(images)), dtype=images.dtype, device=images.device)

    def _read_scores(self, answer: dict[str, Any], count: int) -> list[float]:
        scores = answer.get("scores")
        if not isinstance(scores, list) or len(scores) != count:
            what = f"{len(scores)} scores" if isinstance(scores, list) else "no list of scores"
            self._fail(f"gave {what} for {count} pictures")
        for score in scores:
            if not _is_finite(score):
                self._fail(f"gave the score {_shorten(json.dumps(score))}; each must be a finite number")
        return [float(score) for score in scores]

    def _exchange(self, request: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request, if there is one, and read the answer."""
        if self._failure is not None:
            raise ValueError(self._failure)
        deadline = time.monotonic() + self._timeout
        try:
            if request:
                self._send(json.dumps(request).encode() + b"\n", deadline)
            line = self._receive(deadline)
        except OSError:  # it is gone; the cause is told below
            line = b""
        if not line:
            self._fail(self._end())
        return self._read(line)

    def _send(self, line: bytes, deadline: float) -> None:
        left = memoryview(line)
        while left:
            self._wait(self._input, EVENT_WRITE, deadline)
            left = left[self._input.write(left) or 0 :]

    def _receive(self, deadline: float) -> bytes:
        """A line; without its end where the output was closed, or grew too long, before it came."""
        while b"\n" not in self._unread and len(self._unread) < LONGEST_LINE:
            self._wait(self._output, EVENT_READ, deadline)
            read = self._output.read(1 << 16)
            if not read:
                break
            self._unread += read
        line, end, self._unread = self._unread.partition(b"\n")
        return line + end

    def _wait(self, stream: io.RawIOBase, event: int, deadline: float) -> None:
        """Until a pipe can be read or written; a process of the scorer's own may keep it open after the scorer ended.

        Raises:
            BrokenPipeError: the scorer has ended.
            ValueError: its time is up; in one line.
        """
        with DefaultSelector() as selector:
            selector.register(stream, event)
            while not selector.select(min(1.0, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    self._fail(f"gave no answer in {self._timeout:g} seconds; raise its timeout if it needs more")
                if self._process.poll() is not None and not selector.select(0):
                    raise BrokenPipeError

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            text = _shorten(line.decode(errors="replace").strip())
            self._fail(f"wrote {text}, which is no answer; only answers may go to its standard output")
        if "error" in answer:
            self._fail(f"failed: {_shorten(str(answer['error']))}")
        return answer

    def _end(self) -> str:
        """How the process came to say nothing more."""
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its standard output"
        return f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"

    def _fail(self, what: str) -> NoReturn:
        """End the process, and say what went wrong, now and at every later call."""
        _kill(self._process)
        self._process.wait()
        size = os.fstat(self._errors.fileno()).st_size
        last = os.pread(self._errors.fileno(), 4096, max(0, size - 4096)).decode(errors="replace").split("\n")
        said = next((text for text in reversed(last) if text.strip()), "")
        self._failure = f"reward {self.name!r}: {' '.join(self._settings.command)[:80]}: the scorer {what}"
        self._failure += f" (its last words: {_shorten(said.strip())})" if said else ""
        self._close()
        raise ValueError(self._failure)


def no_gradient(name: str) -> str:
    """Why a scorer in another process cannot be learned from."""
    return f"--reward {name}: a scorer in another process gives no gradient; it can only evaluate, or be the --monitor"


def _is_finite(score: object) -> bool:
    try:
        return isinstance(score, int | float) and not isinstance(score, bool) and isfinite(score)
    except OverflowError:  # a whole number beyond float64
        return False


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def _kill(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _stop(process: subprocess.Popen, *streams: Any) -> None:
    """End a scorer and collect it: closing its input, the first stream, asks it to; after a while it is made to."""
    with suppress(OSError):
        streams[0].close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    _kill(process)
    process.wait()
    for stream in streams:
        stream.close()
