"""Builds TensorRT engines of a checkpoint and writes them as a bundle that the runtime `tensorrt` loads.

The module tensorrt_rtx builds for any RTX GPU (SM 80 to 121) on a machine without one; tensorrt (Jetson, data-centre
GPUs) builds for the GPU it runs on. Engines that a bundle already holds for the same model, settings and version are
kept, so that a second run ends at once and another compute capability adds to the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Sequence

from qwen3vl_ros.engine.checkpoint import Checkpoint, read_json, small_files
from qwen3vl_ros.engine.network.graph import MANIFEST
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.tensorrt.bundle import (
    PARTS,
    Bundle,
    ShapeLimits,
    describe,
    engine_name,
    fault_of,
    hash_files,
    is_bundle,
    write_manifest,
)
from qwen3vl_ros.export.builder import (
    check,
    configure,
    import_module,
    keep_timings,
    layer_precisions,
    parse,
    profiles,
    summary,
)
from qwen3vl_ros.export.graphs import export, parity
from qwen3vl_ros.export.networks import decoder_model, vision_model
from qwen3vl_ros.export.operators import Weights
from qwen3vl_ros.export.progress import progress_monitor
from qwen3vl_ros.export.quantize import compute_dtype, rewrite
from qwen3vl_ros.files import copy_whole, replaced_whole
from qwen3vl_ros.types import EngineError

_MEASURED_PARAMETERS = 50_000_000
# Kernels and tables beside the weights; more than this means that the builder widened quantised weights.
_MOST_BESIDE_WEIGHTS = 1.25, 256 << 20
# Of this package: what an engine's bytes depend on.
_SOURCES = (
    "export/bundles.py",
    "export/builder.py",
    "export/operators.py",
    "export/networks.py",
    "export/quantize.py",
    "engine/network/graph.py",
)


def build(
    checkpoint: Checkpoint,
    out: Path,
    sms: Sequence[int],
    precision: str = "fp16",
    module: str = "tensorrt_rtx",
    limits: ShapeLimits = ShapeLimits(),
    timing_cache: Path | None = None,
    model: str = "",
    say: Callable[[str], None] = print,
) -> Bundle:
    """Build what `out` lacks, and return the bundle.

    sms: compute capabilities, 89 being 8.9. model: what the user called the checkpoint. say: takes lines of progress.
    Raises EngineError for what cannot be built, naming the way out, WrongModel, ModelNotFound.
    """
    trt = import_module(module)
    check(trt, module, sms, precision)
    limits = _within(checkpoint, limits)
    Sizes.read(checkpoint.config), Weights(checkpoint)  # what cannot be built is refused before anything is touched
    hashed = hash_files(*checkpoint.weight_files)
    bundle = _start(
        checkpoint,
        Path(out),
        Bundle(
            Path(out),
            checkpoint.config,
            model or str(checkpoint.path),
            hashed,
            checkpoint.parameters,
            module,
            trt.__version__,
            precision,
            compute_dtype(precision),
            limits,
            {},
            {},
        ),
        say,
    )
    key = _key(bundle)
    missing = {
        part: [sm for sm in sms if bundle.engines.get(engine_name(part, sm), {}).get("key") != key] for part in PARTS
    }
    for sm in sms:
        if not any(sm in missing[part] for part in PARTS):
            say(f"SM {sm}: already built with {module} {trt.__version__}, {precision} and these settings; kept")
    if any(missing.values()):
        with tempfile.TemporaryDirectory(prefix=".build-", dir=bundle.path) as work:
            for part in PARTS:
                if missing[part]:
                    bundle = _build_part(trt, checkpoint, bundle, part, missing[part], Path(work), timing_cache, say)
    if "measured" not in bundle.parity:
        with tempfile.TemporaryDirectory(prefix=".parity-", dir=bundle.path) as work:
            bundle = dataclasses.replace(bundle, parity=graph_parity(checkpoint, precision, Path(work)))
        say(f"parity of the graphs: {json.dumps(bundle.parity)}")
    _write(checkpoint, bundle)
    return bundle


def _build_part(
    trt: ModuleType,
    checkpoint: Checkpoint,
    bundle: Bundle,
    part: str,
    sms: list[int],
    work: Path,
    timing_cache: Path | None,
    say: Callable[[str], None],
) -> Bundle:
    sizes, weights = Sizes.read(checkpoint.config), Weights(checkpoint)
    if part == "vision":
        model, precision = vision_model(sizes, weights, bundle.dtype, "attention"), _sixteen_bit(bundle)
    else:
        model = decoder_model(sizes, weights, bundle.dtype, "attention", bundle.limits.cache_slots)
        precision = bundle.precision
    file = work / f"{part}.onnx"
    started = time.monotonic()
    stored = rewrite(model, checkpoint.path, file, precision)
    say(
        f"{part}: graph written in {time.monotonic() - started:.1f} s, weights "
        + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(stored.items()) if size > 1e4)
    )
    logger = trt.Logger(trt.Logger.ERROR)
    builder, network, parser = parse(trt, logger, file)
    for sm in sms:
        name, started = engine_name(part, sm), time.monotonic()
        config = configure(trt, builder, network, bundle.module, sm, profiles(part, sizes, bundle.limits), timing_cache)
        with progress_monitor(trt, f"{part} SM {sm}", say) as config.progress_monitor:
            built = builder.build_serialized_network(network, config)
        if built is None:
            raise EngineError(
                f"{bundle.module} {bundle.version} could not build {part} for SM {sm} in "
                f"{bundle.precision}; its reason stands above. Try --precision fp16, or another "
                "version of the module"
            )
        seconds = time.monotonic() - started
        keep_timings(config, timing_cache)
        factor, more = _MOST_BESIDE_WEIGHTS
        if built.nbytes > factor * sum(stored.values()) + more:
            raise EngineError(
                f"{part} for SM {sm} has {built.nbytes / 1e6:.0f} MB for weights of "
                f"{sum(stored.values()) / 1e6:.0f} MB, so {bundle.module} {bundle.version} did not "
                f"keep them as {bundle.precision}; build with --precision fp16, or with another "
                "version"
            )
        with replaced_whole(bundle.path / name) as unfinished, unfinished.open("wb") as stream:
            stream.write(built)
        entry = {
            **describe(bundle.path / name),
            "sm": sm,
            "part": part,
            "key": _key(bundle),
            "seconds": round(seconds, 1),
            "weight_bytes": stored,
            "layers": layer_precisions(trt, logger, network, built),
        }
        say(f"{name}: {built.nbytes / 1e6:.1f} MB in {seconds:.1f} s; {summary(entry['layers'])}")
        del built
        bundle = dataclasses.replace(bundle, engines={**bundle.engines, name: entry})
        _write(checkpoint, bundle)
    del parser
    return bundle


# -- one model -------------------------------------------------------------------------------------------------------


def _within(checkpoint: Checkpoint, limits: ShapeLimits) -> ShapeLimits:
    if limits.cache_slots > checkpoint.max_positions:
        raise EngineError(
            f"--cache-slots {limits.cache_slots} exceeds the {checkpoint.max_positions} positions of "
            f"{checkpoint.path}; ask for at most so many"
        )
    return limits


def _sixteen_bit(bundle: Bundle) -> str:
    return "bf16" if bundle.dtype == "bfloat16" else "fp16"


def graph_parity(checkpoint: Checkpoint, precision: str, work: Path) -> dict[str, Any]:
    """How far the graphs that were built are from the network in float32, or why that was not measured.

    Of the graphs, on onnxruntime's CPU: engines run only on their GPU (tests/gpu compares those).
    """
    if compute_dtype(precision) == "bfloat16":
        return {"measured": False, "why": "onnxruntime's CPU does not compute in bfloat16"}
    if checkpoint.parameters > _MEASURED_PARAMETERS:
        return {"measured": False, "why": f"more than {_MEASURED_PARAMETERS:.0e} weights: takes too long on a CPU"}
    missing = [name for name in ("torch", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        return {"measured": False, "why": f"{' and '.join(missing)} not installed"}
    dtype = compute_dtype(precision)
    written = export(checkpoint, work, dtype, measure=False)
    sizes, weights = Sizes.read(checkpoint.config), Weights(checkpoint)
    for part, quantized, model in (
        ("vision", "fp16", vision_model(sizes, weights, dtype, "attention")),
        ("decoder", precision, decoder_model(sizes, weights, dtype, "attention")),
    ):
        rewrite(model, checkpoint.path, work / f"{part}.onnx", quantized)
        written["sha256"][f"{part}.onnx"] = hash_files(work / f"{part}.onnx")
    (work / MANIFEST).write_text(json.dumps({"onnx": written}))
    what = "graphs on onnxruntime's CPU against torch in float32; largest error relative to the largest number"
    return {"measured": True, "what": what, **parity(checkpoint, work)}


# -- the bundle ------------------------------------------------------------------------------------------------------


def _start(checkpoint: Checkpoint, out: Path, wanted: Bundle, say: Callable[[str], None]) -> Bundle:
    """`wanted` with the engines of `out` that still hold; nothing there is touched. Raises EngineError for an `out` that is not
    this model's."""
    if out.resolve() == checkpoint.path.resolve():
        raise EngineError(f"--out {out} is the model's own directory; give another one for the engines")
    engines: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    if is_bundle(out):
        before = read_json(out / MANIFEST)["tensorrt"]
        if (out / "config.json").is_file() and read_json(out / "config.json") != checkpoint.config:
            raise EngineError(f"--out {out} holds engines of another model, {before['model']}; give a new directory")
        for name, known in before["engines"].items():
            why = fault_of(out / name, known)
            if not why and known["key"] != _key(wanted):
                why = "is of other weights, another version, or other settings"
            if why:
                say(f"{name} {why}; it goes when the first new one is written")
            else:
                engines[name], parity = known, before["parity"]
    elif out.is_dir() and any(out.iterdir()):
        raise EngineError(f"--out {out} holds other files and is no bundle; give a new directory")
    out.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(wanted, engines=engines, parity=parity)


def _small_files(directory: Path) -> list[Path]:
    return [f for f in small_files(directory) if f.name != MANIFEST and not f.name.endswith(".safetensors.index.json")]


def _write(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """The manifest, with the checkpoint's small files beside it and without the engines of the manifest before that hold no more."""
    before = read_json(bundle.path / MANIFEST)["tensorrt"]["engines"] if is_bundle(bundle.path) else {}
    for name in before.keys() - bundle.engines.keys():
        (bundle.path / name).unlink(missing_ok=True)
    for file in _small_files(checkpoint.path):
        copy_whole(file, bundle.path / file.name)
    write_manifest(bundle, [f.name for f in _small_files(bundle.path)])


def _key(bundle: Bundle) -> str:
    """What an engine depends on beside its part and compute capability, as one hash; our own sources included."""
    root = Path(__file__).resolve().parents[1]
    depends = [
        bundle.module,
        bundle.version,
        bundle.model_sha256,
        bundle.precision,
        dataclasses.asdict(bundle.limits),
        bundle.config,
        hash_files(*(root / name for name in _SOURCES)),
    ]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
