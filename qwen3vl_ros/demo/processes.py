"""Child processes that cannot outlive the demo, whichever way it ends, and the signals that end it.

Each child leads its own process group and writes to its own log. Stopping goes INT, TERM, KILL over the whole
group; if the demo itself is killed, the kernel interrupts the children (Linux: parent-death signal). Knows of
ROS how a node is started, and no more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Mapping, Sequence

from qwen3vl_ros.types import PerceptionError

# Run between fork and the command: asks the kernel for a SIGTERM when the demo dies (PR_SET_PDEATHSIG),
# unless it has died already. In an interpreter of its own, because Python code after a fork of a process with
# threads may deadlock.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


def node_command(module: str, namespace: str = "", **parameters: Any) -> list[str]:
    """The command that runs a module as a ROS node; empty parameters keep the node's own default."""
    command = [sys.executable, "-m", module, "--ros-args"]
    if namespace:
        command += ["-r", f"__ns:=/{namespace}"]
    for name, value in parameters.items():
        if value not in ("", None):
            text = str(value) if isinstance(value, Path) else value
            command += ["-p", f"{name}:={json.dumps(text)}"]  # JSON is YAML, types and quotes included
    return command


class ChildDied(PerceptionError):
    """A child process ended by itself; the message holds the end of its log."""


class Children:
    """The demo's processes, by name. Use it as a context manager: leaving it stops them all."""

    def __init__(self, log_dir: Path, patience_s: float = 8.0):
        self.log_dir, self.patience_s = Path(log_dir), patience_s
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def log_path(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start `command` with its output in <log_dir>/<name>.log; returns the process id."""
        if sys.platform.startswith("linux"):
            command = [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        with open(self.log_path(name), "wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(env if env is not None else os.environ, PYTHONUNBUFFERED="1"),
            )
        return self._running[name].pid

    def check(self) -> None:
        """Raise ChildDied if any child has ended."""
        for name, child in self._running.items():
            if child.poll() is not None:
                code = child.returncode
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
                raise ChildDied(
                    f"{name} ended unexpectedly ({how}). End of {self.log_path(name)}:\n{tail(self.log_path(name))}"
                )

    def peak_memory_mb(self, name: str) -> float | None:
        """The most memory the child has had resident, 10^6 bytes; None where the system does not tell."""
        try:
            status = Path(f"/proc/{self._running[name].pid}/status").read_text()
        except OSError:
            return None
        peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return round(int(peak[0]) * 1024 / 1e6, 1) if peak else None

    def stop(self) -> None:
        """Interrupt all, wait, terminate, and kill what is left; also what the children started."""
        try:
            self._stop_patiently()
        except BaseException:  # the user's second Ctrl-C: no more patience, but nothing left behind either
            for child in self._running.values():
                _signal_group(child.pid, signal.SIGKILL)
            raise

    def _stop_patiently(self) -> None:
        for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + self.patience_s
            for child in self._running.values():
                _signal_group(child.pid, stop_signal)
            while time.monotonic() < deadline:
                if not any([_group_lives(child) for child in self._running.values()]):
                    self._running.clear()
                    return
                time.sleep(0.02)


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP become KeyboardInterrupt where check() is called: raised in the middle of a
    ROS
    callback it could be lost, or leave the graph in pieces. A second signal does not wait."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def let_through(self) -> None:
        """From now on every signal raises at once."""
        self.check()
        self._asked = True


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a text file, indented; a note if it is empty."""
    with open(path, errors="replace") as text:
        last = deque(text, lines)
    return "".join(f"    {line.rstrip()}\n" for line in last) or "    (nothing was written)\n"


def _signal_group(pgid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        pass  # the whole group has ended, which is what was wanted


def _group_lives(child: subprocess.Popen) -> bool:
    child.poll()  # collects the child itself; a zombie would count as alive
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True
