"""The outcome as a page of Markdown to paste into an issue, or as JSON, a line each; the last line is the same for both."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Iterator

from qwen3vl_ros.config import Config
from qwen3vl_ros.selftest.run import EXPLAINED, FAILED, PASSED, Report, as_dict, run

_PACKAGES = ("onnxruntime", "torch", "transformers", "tensorrt", "tensorrt-rtx-cu13", "llguidance", "numpy")


def report(config: Config, as_json: bool = False) -> int:
    """Run the self-test and print it; 0 where nothing failed and something passed, else 1."""
    result = run(config)
    for line in json_lines(result) if as_json else page(result):
        print(line)
    print(summary(result), flush=True)
    return 0 if result.good else 1


def summary(result: Report) -> str:
    """One JSON object: passed, failed, explained, engine."""
    counts = {verdict: result.count(verdict) for verdict in (PASSED, FAILED, EXPLAINED)}
    return json.dumps(counts | {"engine": result.info.runtime})


def json_lines(result: Report) -> Iterator[str]:
    """What ran, and each outcome."""
    i = result.info
    yield _dumped(
        {
            "version": version(),
            "model": i.model,
            "runtime": i.runtime,
            "device": i.device,
            "dtype": i.dtype,
            "why": i.why,
            "machine": machine(),
            "packages": packages(),
            "load_s": result.load_s,
            "asked_s": result.asked_s,
            "peak_gb": result.peak_gb,
            "gpu_peak_gb": result.gpu_peak_gb,
            **rates(result),
        }
    )
    for outcome in result.outcomes:
        yield _dumped(as_dict(outcome))


def page(result: Report) -> Iterator[str]:
    """Markdown."""
    i, r = result.info, rates(result)
    memory = f"{result.peak_gb:.2f} GB of this process"
    memory += f", {result.gpu_peak_gb:.2f} GB of the GPU" * math.isfinite(result.gpu_peak_gb)
    memory += "; the server's is not told" * (i.runtime == "remote")
    size = f", {i.size}" * bool(i.size) + ", thinks before it answers" * i.thinking
    yield f"# Self-test of qwen3vl_ros {version()}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| model | {_cell(i.model)}: {i.architecture}{size} |"
    yield f"| engine | {i.runtime}, {_cell(i.device)}, {i.dtype} ({_cell(i.why)}) |"
    yield f"| machine | {_cell(machine())} |"
    yield f"| packages | {', '.join(f'{name} {version}' for name, version in packages().items())} |"
    yield f"| loaded in | {result.load_s:.1f} s |"
    yield f"| memory, at its peak | {memory} |"
    if r:
        yield f"| picture to answer | {1000 * r['answer_s']:.0f} ms (median of {r['answers']}) |"
        yield f"| of it seeing and reading | {1000 * r['prefill_s']:.0f} ms (median) |"
        yield f"| writing | {r['tokens_per_s']:.1f} tokens/s |"
    yield ""
    yield f"**{verdict(result)}**"
    yield ""
    yield "| question, picture | outcome | form | what was found | tokens | s |"
    yield "|---|---|---|---|---|---|"
    before = ""
    for o in result.outcomes:
        g = o.generation
        cost = f"{g.generated_tokens} | {g.total_s:.2f}" if g else " | "
        why = f" ({'as above' if o.why == before else o.why})" * bool(o.why)
        before = o.why
        yield f"| {o.name} | {o.verdict} | {o.form} | {_cell(o.found + why)} | {cost} |"
    yield ""


def verdict(result: Report) -> str:
    """One sentence."""
    failed = [o.name for o in result.outcomes if o.verdict == FAILED]
    asked = [o for o in result.outcomes if o.kind]
    if failed and not any(o.verdict == PASSED for o in asked):
        return f"This does not work: not one of {len(asked)} questions was answered right, and nothing explains it."
    if failed:
        return f"{len(failed)} of {len(result.outcomes)} failed, with nothing to explain it: {', '.join(failed)}."
    if not result.count(PASSED):
        return "Nothing was proven in the time of the test."
    explained = result.count(EXPLAINED)
    return f"{result.count(PASSED)} passed, {explained} explained, none failed." if explained else "Everything passed."


def rates(result: Report) -> dict[str, float]:
    """Medians over the answers, in seconds, and tokens written a second; empty without an answer."""
    said = [o.generation for o in result.outcomes if o.generation is not None and o.ability != "repeat"]
    if not said:
        return {}
    written, writing_s = sum(max(g.generated_tokens - 1, 0) for g in said), sum(g.decode_s for g in said)
    return {
        "answers": len(said),
        "answer_s": statistics.median(g.total_s for g in said),
        "prefill_s": statistics.median(g.prefill_s for g in said),
        "tokens_per_s": written / writing_s if writing_s else math.nan,
    }


def machine() -> str:
    """Processor, cores and memory in words."""
    name = platform.processor() or platform.machine()
    cpuinfo, device_tree = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    if device_tree.is_file():
        name = device_tree.read_text(errors="replace").strip("\0 ")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, {memory_gb:.0f} GB; {platform.system()} {platform.release()}, Python {platform.python_version()}"


def version() -> str:
    """Of this package; a source tree that was not installed has none."""
    try:
        return metadata.version("qwen3vl_ros")
    except metadata.PackageNotFoundError:
        return "(source tree)"


def packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _dumped(value: dict) -> str:
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)
