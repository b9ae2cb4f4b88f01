"""One engine from one ONNX file with TensorRT: what a module can build, its profiles, and the precision of its layers.

Serves the modules `tensorrt` (builds for the GPU it runs on) and `tensorrt_rtx` (for any, without one). Knows no
checkpoints and no bundles.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, Sequence

from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.tensorrt.bundle import ShapeLimits
from qwen3vl_ros.engine.tensorrt.cuda import Cuda
from qwen3vl_ros.types import EngineError

MODULES = ("tensorrt_rtx", "tensorrt")
_FIRST_TENSORRT = 10, 15
# tensorrt_rtx 1.7 refuses the graphs' float32 matrix products on SM 75, whatever the precision.
_NEEDS_SM = {
    "fp16": (80, "float32 matrix products"),
    "bf16": (80, "bfloat16 arithmetic"),
    "fp8": (89, "FP8 arithmetic"),
    "int4": (80, "float32 matrix products"),
}
PRECISIONS = tuple(_NEEDS_SM)


# -- what can be built -----------------------------------------------------------------------------------------------


def import_module(module: str) -> ModuleType:
    """Raises EngineError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way_out = (
            "pip install tensorrt-rtx-cu13"
            if module == "tensorrt_rtx"
            else "it comes with JetPack, or from NVIDIA's package index"
        )
        raise EngineError(
            f"the module {module} cannot be imported ({error}); {way_out}, or choose --module "
            f"{next(m for m in MODULES if m != module)}"
        ) from error


def check(trt: ModuleType, module: str, sms: Sequence[int], precision: str) -> None:
    """Raises EngineError for compute capabilities that cannot be built for with this module and precision."""
    if module == "tensorrt":
        if tuple(int(number) for number in trt.__version__.split(".")[:2]) < _FIRST_TENSORRT:
            raise EngineError(
                f"tensorrt {trt.__version__} has no cache and attention layers, which came with "
                f"{'.'.join(map(str, _FIRST_TENSORRT))} (JetPack 7.2); use engine onnxruntime or torch "
                "with it"
            )
        here = current_sm()
        if any(sm != here for sm in sms):
            raise EngineError(
                f"tensorrt builds only for the GPU it runs on, here SM {here}, and --sm asks for "
                f"{', '.join(map(str, sms))}; build on the machine with that GPU, or with --module "
                "tensorrt_rtx"
            )
    else:
        known = sorted(int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        for sm in sms:
            if sm not in known:
                raise EngineError(
                    f"{module} {trt.__version__} cannot build for SM {sm}, only for "
                    f"{', '.join(map(str, known))}; for Jetson (87, 101, 110) and data-centre GPUs "
                    "(90, 100) build with --module tensorrt on that machine"
                )
    least, what = _NEEDS_SM[precision]
    for sm in sms:
        if sm < least:
            way_out = (
                "build for it with --precision int4 or fp16" if sm >= 80 else "use engine onnxruntime or torch there"
            )
            raise EngineError(
                f"{module} has no {what} for SM {sm}, and --precision {precision} needs SM {least} or later; {way_out}"
            )


def current_sm() -> int:
    """The compute capability of the GPU here, 89 being 8.9. Raises EngineError without one."""
    try:
        return Cuda(0).sm
    except EngineError as error:
        raise EngineError(
            f"there is no GPU here to build for: name others, e.g. --sm 86,89,120 with --module tensorrt_rtx. ({error})"
        ) from error


# -- TensorRT --------------------------------------------------------------------------------------------------------


def parse(trt: ModuleType, logger: Any, file: Path) -> tuple[Any, Any, Any]:
    """builder, network and parser of an ONNX file. Raises EngineError with the parser's reasons."""
    builder = trt.Builder(logger)
    # Types are those of the graph: nothing is widened or narrowed behind our back.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        reasons = "; ".join(parser.get_error(i).desc().splitlines()[0] for i in range(min(3, parser.num_errors)))
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not accept {file.name}: {reasons}; try another "
            "version of it, or engine onnxruntime or torch"
        )
    return builder, network, parser


def profiles(part: str, sizes: Sizes, limits: ShapeLimits) -> list[dict[str, tuple[int, int, int]]]:
    """Least, usual and most of each dimension that a pass decides, by its letter in graph.py; one for each profile.

    The decoder has two: steps of 1 to draft tokens, and prompts of more.
    """
    if part == "vision":
        merge = sizes.vision.merge**2
        return [{"N": (merge, min(1200, limits.max_patches), limits.max_patches)}]
    rows = limits.max_visual + 1
    usual = min(512, limits.prefill)
    return [
        {"Q": (1, 1, limits.draft), "K": (1, 1, limits.draft), "R": (1, 1, rows)},
        {
            "Q": (limits.draft + 1, max(usual, limits.draft + 1), limits.prefill),
            "K": (1, 1, limits.draft),
            "R": (1, min(301, rows), rows),
        },
    ]


def configure(
    trt: ModuleType,
    builder: Any,
    network: Any,
    module: str,
    sm: int,
    ranges: list[dict[str, tuple[int, int, int]]],
    timing_cache: Path | None,
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if module == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    elif timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    for letters in ranges:
        profile = builder.create_optimization_profile()
        for tensor in (network.get_input(i) for i in range(network.num_inputs)):
            if -1 in tuple(tensor.shape):
                profile.set_shape(
                    tensor.name,
                    *(
                        tuple(
                            size if size != -1 else letters[tensor.get_dimension_name(axis)][which]
                            for axis, size in enumerate(tensor.shape)
                        )
                        for which in range(3)
                    ),
                )
        config.add_optimization_profile(profile)
    return config


def keep_timings(config: Any, timing_cache: Path | None) -> None:
    if timing_cache is not None and config.get_timing_cache() is not None:
        timing_cache.write_bytes(config.get_timing_cache().serialize())


def layer_precisions(trt: ModuleType, logger: Any, network: Any, built: Any) -> dict[str, Any]:
    """How many layers of each kind give each type, and whether the engine or, without a GPU, the network says so.

    An engine can only be opened on its GPU. Until then the network is told of: it is strongly typed, so that the
    builder has to keep its types.
    """
    engine = None
    if _gpu_here():
        engine = trt.Runtime(logger).deserialize_cuda_engine(built)
    counts: dict[str, Counter] = {}
    if engine is not None:
        inspector = engine.create_engine_inspector()
        report = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        for layer in report["Layers"]:
            for end in layer["Outputs"]:
                kind, dtype = layer.get("LayerType", "layer"), end.get("Format/Datatype", "unknown")
                counts.setdefault(kind, Counter())[dtype] += 1
    else:
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if layer.num_outputs and layer.get_output(0).dtype not in (trt.int64, trt.int32, trt.bool):
                counts.setdefault(layer.type.name, Counter())[layer.get_output(0).dtype.name] += 1
    return {
        "source": "network" if engine is None else "engine",
        "counts": {kind: dict(found) for kind, found in sorted(counts.items())},
    }


def _gpu_here() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/nvhost-gpu").exists() or Path("/dev/nvgpu").exists()


def summary(layers: dict[str, Any]) -> str:
    total = Counter()
    for counts in layers["counts"].values():
        total.update(counts)
    return f"layers by type, from the {layers['source']}: " + ", ".join(
        f"{name} {count}" for name, count in total.most_common()
    )
