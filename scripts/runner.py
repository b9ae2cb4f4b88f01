"""Runs a command of the set-up: its output in a log file, a sign of life on the terminal, a failure explained."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".ws" / "setup_logs"
HEARTBEAT_S = 15


class SetupError(Exception):
    """A step failed; the message says what to do."""


def run(command: list[str], log_name: str, what_to_do: str, **variables: str) -> None:
    """Runs `command` with these variables too; raises SetupError with the log's end and `what_to_do`."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log, start_s = LOGS / f"{log_name}.log", time.monotonic()
    shown = shlex.join(command).split("\n")[0]
    with log.open("ab", buffering=0) as stream:
        stream.write(f"\n$ {shown}\n".encode())
        pipes = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, **pipes)
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT_S)
                except subprocess.TimeoutExpired:
                    print(f"{time.monotonic() - start_s:8.0f} s  {tail_of(log, 1).strip()[:90]}", flush=True)
        finally:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        failed = f"`{shown[:100]} ...` ended with status {process.returncode}. The end of {log}:"
        raise SetupError(f"{failed}\n\n{tail_of(log, 25)}\n\nWhat to do: {what_to_do}")


def tail_of(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-lines:])
