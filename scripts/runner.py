"""Running a step of the set-up: progress on the terminal, output in a log file, a failure explained.

Knows nothing of what the steps are.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".ws" / "setup_logs"
LOG_TAIL_LINES = 25


class SetupError(Exception):
    """A step failed; the message says what to do."""


class Progress:
    """One line per step with elapsed time: rewritten in place on a terminal, repeated elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.title = ""
        self.tty = sys.stdout.isatty()
        self.step_start_s = self.last_print_s = 0.0

    def start(self, title: str) -> None:
        self.number += 1
        self.title = title
        self.step_start_s = self.last_print_s = time.monotonic()
        self._print("...", newline=not self.tty)

    def beat(self, log: Path) -> None:
        now_s = time.monotonic()
        if now_s - self.last_print_s < (1 if self.tty else 30):
            return
        self.last_print_s = now_s
        self._print(f"{now_s - self.step_start_s:4.0f} s  {last_line(log)}", newline=not self.tty)

    def note(self, text: str) -> None:
        self._print(text, newline=True)

    def done(self) -> None:
        self._print(f"done in {time.monotonic() - self.step_start_s:.0f} s", newline=True)

    def _print(self, text: str, newline: bool) -> None:
        line = f"[{self.number}/{self.total}] {self.title}: {text}"
        if self.tty:
            width = shutil.get_terminal_size().columns
            print("\r\x1b[K" + line[: width - 1], end="\n" if newline else "", flush=True)
        elif newline:
            print(line[:160], flush=True)


progress = Progress(total=0)


def last_line(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 2000))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip()[:90] for line in reversed(lines) if line.strip()), "")


def run(command: list[str], log_name: str, what_to_do: str, environment: dict[str, str] | None = None) -> None:
    """Runs `command` with its output in a log file; raises SetupError with the log's end and `what_to_do`."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{log_name}.log"
    shown = shlex.join(command).split("\n")[0]
    with log.open("ab") as stream:
        stream.write(f"\n$ {shown}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    progress.beat(log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise SetupError(
            f"`{shown[:100]} ...` ended with status {process.returncode}. "
            f"The end of {log}:\n\n{tail}\n\n"
            f"What to do: {what_to_do}"
        )
