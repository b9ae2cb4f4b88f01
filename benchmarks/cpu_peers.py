"""A published size on this CPU, ours in int4 beside what people would take instead. Part of engine_cpu.py (--size, --peers).

Random weights (of accuracy they say nothing: the error of the logits against float32 is given for a few layers), a 640x480
picture, 60 text tokens, 100 tokens out; every program in a process and an environment of its own, one after the other, on the
same two threads. `static` is the same picture again with the last answer as a draft: what a scene at rest costs; the picture is
seen again each time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "runs" / "peers"
WORKERS = {"llama.cpp": "llama_cpp_peer.py", "openvino": "openvino_peer.py", "vllm": "vllm_peer.py"}
WORKERS |= {"transformers": "transformers_peer.py"}
_TOY = ("--width", "128", "--height", "96", "--tokens", "20")
_LIMIT_S = 3600.0


def checkpoints(size: str) -> tuple[Path, Path]:
    """The random checkpoint of that size, and ours in int4; made once."""
    from qwen3vl_ros.engine.checkpoint import read_checkpoint
    from qwen3vl_ros.export.graphs import export
    from qwen3vl_ros.export.random_weights import write_checkpoint
    from qwen3vl_ros.export.scheme import Scheme

    plain, small = MODELS / size, MODELS / f"{size}-int4"
    if not (plain / "model.safetensors").is_file():
        write_checkpoint(size, plain)
    if not (small / "decoder.onnx").is_file():
        export(read_checkpoint(plain), small, scheme=Scheme(), measure=False)
    return plain, small


def error_of_logits(size: str) -> dict[str, float]:
    """Relative errors of two layers of that size in int4, against float32."""
    import tempfile

    from qwen3vl_ros.engine.checkpoint import read_checkpoint
    from qwen3vl_ros.export.graphs import export
    from qwen3vl_ros.export.random_weights import write_checkpoint
    from qwen3vl_ros.export.scheme import Scheme

    with tempfile.TemporaryDirectory() as folder:
        plain = write_checkpoint(size, Path(folder) / "plain", layers=2)
        return export(read_checkpoint(plain), Path(folder) / "int4", scheme=Scheme())["parity"]


def bandwidth_gb_s(threads: int) -> float:
    """Bytes that `threads` read of memory a second, best of five."""
    parts = [np.ones(1 << 25, np.float64) for _ in range(threads)]
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=part.sum) for part in parts]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - began) / 1e9)
    return best


def run_worker(python: str, worker: str, model: Path, options: list[str]) -> dict[str, Any]:
    """Its figures, or {"failed": why}."""
    environment = dict(os.environ)
    if python != sys.executable:  # the package's own libraries are of another environment
        environment = {
            k: v for k, v in environment.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
        }
    command = [python, str(HERE / "peers" / worker), str(model), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {_LIMIT_S:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
    error = next((line for line in reversed(said) if re.search(r"\b\w*(Error|Exit|Exception)\b", line)), said[-1])
    return {"failed": error.strip()[:200]}


def run(size: str, names: list[str], rounds: int, threads: int, machine: str) -> int:
    plain, small = checkpoints(size)
    options = ["--rounds", str(rounds), "--threads", str(threads), *(_TOY if size == "toy" else ())]
    found = {"ours int4": run_worker(sys.executable, "ours.py", small, options)}
    for name in names:
        own = name != "transformers"
        reason = peers.reason(name) if own else ""
        python = str(peers.python_of(name)) if own else sys.executable
        found[name] = {"failed": reason} if reason else run_worker(python, WORKERS[name], plain, options)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    error = error_of_logits(size)
    bandwidth = bandwidth_gb_s(threads)
    print(f"hardware: {machine}; {bandwidth:.1f} GB/s read by {threads} threads; {size}, {rounds} rounds\n")
    print("| | first token, s | tokens/s | image to answer, s | peak, GB |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        if "failed" in row:
            print(f"| {name} | not measured: {row['failed']} | | | |")
        else:
            note = f" ({row['note']})" if "note" in row else ""
            print(
                f"| {name}{note} | {row['first_token_s']:.2f} | {row['tokens_per_s']:.2f} | {row['answer_s']:.2f} | "
                f"{row['peak_gb']:.2f} |"
            )
    ours = found["ours int4"]
    if "failed" in ours:
        raise SystemExit(f"ours failed: {ours['failed']}")
    others = {n: r for n, r in found.items() if n != "ours int4" and "failed" not in r}
    told: dict[str, Any] = {"size": size, "peers": found, "error": error, "hardware": machine}
    told |= {"peak_gb": ours["peak_gb"], "bandwidth_gb_s": round(bandwidth, 2)}
    share = ours["bytes_per_token"] * ours["tokens_per_s"] / 1e9 / bandwidth
    told |= {"bandwidth_share": round(share, 3), "see_share": round(ours["see_s"] / ours["static_s"], 3)}
    if others:
        answer, decode = (min(r[key] for r in others.values()) for key in ("answer_s", "decode_s"))
        told |= {
            "ratio_best_peer": round(answer / ours["answer_s"], 3),
            "ratio_static_stream": round(answer / ours["static_s"], 3),
            "ratio_static_decode": round(decode / ours["static_decode_s"], 3),
        }
    print(
        f"\nours: seeing {ours['see_s']:.2f} s, reading {ours['prefill_s']:.2f} s, decoding {ours['decode_s']:.2f} s; static: "
        f"{ours['static_s']:.2f} s, of it seeing {told['see_share']:.0%}; peak at load {ours['load_peak_gb']:.2f} GB; decoding "
        f"reads {share:.0%} of the bandwidth; error of the logits of two layers {error}"
    )
    print(json.dumps(told))
    return 0
