"""A real vLLM without a GPU, serving the embedded model: started, killed with everything it started, and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import peers

from qwen3vl_ros.engine import embedded_model_dir

_START_S = 900.0  # of a busy machine; an idle one takes half a minute
# Not from here: the package's own libraries and paths are of another Python environment.
_FOREIGN = ("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")


class VllmServer:
    """files: a directory whose pictures it may read, None for none. Nothing is served before `start`."""

    def __init__(self, folder: Path, files: Path | None = None, dtype: str = "float32"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url, self._log, self._process = f"http://127.0.0.1:{self._port}/v1", folder / "vllm.log", None
        allowed = ["--allowed-local-media-path", str(files)] if files else []
        self._command = [
            *(str(peers.python_of("vllm").with_name("vllm")), "serve", str(embedded_model_dir())),
            *("--served-model-name", "embedded", "--dtype", dtype, "--enforce-eager", "--max-model-len", "2048"),
            *("--limit-mm-per-prompt", '{"image": 4, "video": 0}', *allowed),
            *("--host", "127.0.0.1", "--port", str(self._port)),
        ]

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError with the end of its log."""
        environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN} | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
            )
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if httpx.get(self.url.replace("/v1", "/health"), trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"vLLM did not start: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """With its workers, which are in its session."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None
