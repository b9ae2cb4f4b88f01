"""A published size on this CPU, ours in few bits beside what people would take instead. Part of engine_cpu.py (--size, --peers).

Random weights (of accuracy they say nothing: the error of the logits against float32 is given for a few layers), a 640x480
picture, 60 text tokens, 100 tokens out; every program in a process and an environment of its own, one after the other, on the
same two threads. `static` is the same picture again with the last answer as a draft: what a scene at rest costs; the picture is
seen again each time. The ratios of the last line are those of the first precision of --ours; of the others under their names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "runs" / "peers"
WORKERS = {"llama.cpp": "llama_cpp_peer.py", "openvino": "openvino_peer.py", "vllm": "vllm_peer.py"}
WORKERS |= {"transformers": "transformers_peer.py"}
_TOY = ("--width", "128", "--height", "96", "--tokens", "20")
_LIMIT_S = 3600.0


def checkpoints(size: str, precisions: Sequence[str] = ("int4",)) -> tuple[Path, dict[str, Path]]:
    """The random checkpoint of that size, and ours by precision; made once."""
    from qwen3vl_ros.engine.checkpoint import read_checkpoint
    from qwen3vl_ros.export.graphs import export
    from qwen3vl_ros.export.random_weights import write_checkpoint
    from qwen3vl_ros.export.scheme import BITS, Scheme

    plain, small = MODELS / size, {name: MODELS / f"{size}-{name}" for name in precisions}
    if not (plain / "model.safetensors").is_file():
        write_checkpoint(size, plain)
    for name, place in small.items():
        if not (place / "decoder.onnx").is_file():
            export(read_checkpoint(plain), place, scheme=Scheme(decoder=BITS[name]), measure=False)
    return plain, small


def errors_of_logits(size: str, precisions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Relative errors of two layers of that size, by precision, against float32."""
    import tempfile

    from qwen3vl_ros.engine.checkpoint import read_checkpoint
    from qwen3vl_ros.export.graphs import export
    from qwen3vl_ros.export.random_weights import write_checkpoint
    from qwen3vl_ros.export.scheme import BITS, Scheme

    with tempfile.TemporaryDirectory() as folder:
        plain = read_checkpoint(write_checkpoint(size, Path(folder) / "plain", layers=2))
        return {
            name: export(plain, Path(folder) / name, scheme=Scheme(decoder=BITS[name]))["parity"] for name in precisions
        }


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


def run(
    size: str,
    names: list[str],
    rounds: int,
    threads: int,
    machine: str,
    precisions: list[str],
    frames: int,
    error: bool,
) -> int:
    plain, small = checkpoints(size, precisions)
    options = ["--rounds", str(rounds), "--threads", str(threads), "--frames", str(frames)]
    options += _TOY if size == "toy" else ()
    ours = {name: run_worker(sys.executable, "ours.py", place, options) for name, place in small.items()}
    for name, row in ours.items():
        print(f"ours {name}: {row}", file=sys.stderr, flush=True)
        if "failed" in row:
            raise SystemExit(f"ours in {name} failed: {row['failed']}")
    found = {}
    for name in names:
        own = name != "transformers"
        reason = peers.reason(name) if own else ""
        python = str(peers.python_of(name)) if own else sys.executable
        found[name] = {"failed": reason} if reason else run_worker(python, WORKERS[name], plain, options)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    errors = errors_of_logits(size, precisions) if error else {}
    print(f"hardware: {machine}; {size}, {rounds} rounds, {threads} threads\n")
    print("| | first token, s | tokens/s | image to answer, s | peak, GB |")
    print("|---|---|---|---|---|")
    for name, row in ({f"ours {name}": row for name, row in ours.items()} | found).items():
        if "failed" in row:
            print(f"| {name} | not measured: {row['failed']} | | | |")
        else:
            note = f" ({row['note']})" if "note" in row else ""
            print(
                f"| {name}{note} | {row['first_token_s']:.2f} | {row['tokens_per_s']:.2f} | {row['answer_s']:.2f} | "
                f"{row['peak_gb']:.2f} |"
            )
    print(
        "\n| ours | seeing, s | reading, s | decoding, s | of the bandwidth | at rest, s | of it seeing | drafts kept | at load, GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    told = {name: _against(row, found) for name, row in ours.items()}
    for name, row in ours.items():
        print(
            f"| {name} | {row['see_s']:.2f} | {row['prefill_s']:.2f} | {row['decode_s']:.2f} | "
            f"{told[name]['bandwidth_share']:.0%} of {row['bandwidth_gb_s']:.1f} GB/s | {row['static_s']:.2f} | "
            f"{told[name]['see_share']:.0%} | {row['drafts_accepted']:.0%} of {row['frames']} frames | {row['load_peak_gb']:.2f} |"
        )
    print(f"\nerrors of two layers, relative to the largest number: {errors or 'not measured'}\n")
    first = precisions[0]
    rest = {name: told[name] for name in precisions[1:]}
    more = {"size": size, "ours": first, "peers": found, "error": errors, "hardware": machine}
    print(json.dumps(told[first] | {"precisions": ours, **rest} | more))
    return 0


def _against(row: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Our figures as shares and ratios; a ratio above 1: we are faster than the best of the others."""
    share = row["bytes_per_token"] * row["tokens_per_s"] / 1e9 / row["bandwidth_gb_s"]
    told = {"bandwidth_share": round(share, 3), "peak_gb": row["peak_gb"]}
    told |= {"see_share": round(row["see_s"] / row["static_s"], 3)}
    others = [r for r in found.values() if "failed" not in r]
    if others:
        answer, decode = (min(r[key] for r in others) for key in ("answer_s", "decode_s"))
        told |= {
            "ratio_best_peer": round(answer / row["answer_s"], 3),
            "ratio_static_stream": round(answer / row["static_s"], 3),
            "ratio_static_decode": round(decode / row["static_decode_s"], 3),
        }
    return told
