"""`qwen3vl export` and `qwen3vl build`: their options, and what they say. Imports what writes only when it writes."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from qwen3vl_ros.engine.checkpoint import Checkpoint, find_checkpoint
from qwen3vl_ros.engine.network.graph import DECODER, HOST_DTYPES, VISION
from qwen3vl_ros.engine.network.sizes import METHOD
from qwen3vl_ros.engine.tensorrt.bundle import ShapeLimits, origin
from qwen3vl_ros.export import require
from qwen3vl_ros.export.builder import MODULES, PRECISIONS, current_sm
from qwen3vl_ros.export.scheme import BITS, Scheme
from qwen3vl_ros.types import InvalidInput, WrongModel

_RANDOM = "random:"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the two commands to the parser of `qwen3vl`."""
    export = commands.add_parser(
        "export",
        help="write a checkpoint's ONNX graphs, for the runtime onnxruntime",
        description="Writes vision.onnx and decoder.onnx of MODEL beside its weights, which stay where they are.",
    )
    export.add_argument("model", metavar="MODEL", help="directory of a checkpoint, or a hub id")
    export.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: beside the weights)")
    export.add_argument(
        "--dtype",
        choices=[name for name in HOST_DTYPES if "float" in name],
        default="float32",
        help="what the graphs compute in (default: float32, for CPUs)",
    )
    export.add_argument(
        "--decomposed",
        action="store_true",
        help="opset 18: no Attention and TensorScatter operators, for TensorRT before 10.15",
    )
    export.add_argument("--slots", type=int, default=0, help="length of the cache (default: each pass decides)")
    export.add_argument(
        "--precision",
        choices=("as stored", *BITS),
        default="as stored",
        help="for CPUs, in a directory of their own (--out). int4: the decoder's linears in 4 bits, tower and head in 8; int8: all "
        "in 8, which reads prompts and drafts faster where the processor multiplies int8 (AMX, VNNI)",
    )
    export.add_argument(
        "--block", type=int, choices=(32, 64, 128), help=f"inputs of an int4 scale (default: {Scheme.block})"
    )
    export.add_argument("--no-parity", action="store_true", help="do not compare with torch; needs onnx alone")
    export.set_defaults(run=_export)

    build = commands.add_parser(
        "build",
        help="build TensorRT engines of a checkpoint, for the runtime tensorrt",
        description="Builds engines of MODEL into BUNDLE, or those that it lacks; give BUNDLE as the node's model.",
        epilog="The module tensorrt_rtx builds for any RTX GPU (SM 80 to 121) on a machine without one; tensorrt "
        "(Jetson, data-centre GPUs) builds for the GPU it runs on. fp8 and int4 quantise the decoder's weights.",
    )
    limits = ShapeLimits()
    build.add_argument(
        "model",
        metavar="MODEL",
        help="directory of a checkpoint, a hub id, '' for the embedded model, or random:2B (4B, 8B, toy): random "
        "weights at a published size, for timing",
    )
    build.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the bundle to write or to complete")
    build.add_argument(
        "--sm", default="current", help="compute capabilities, e.g. 86,89,120 (default: of the GPU here)"
    )
    build.add_argument("--precision", choices=PRECISIONS, default="fp16")
    build.add_argument("--module", choices=MODULES, default=MODULES[0])
    build.add_argument("--cache-slots", type=int, default=limits.cache_slots, help="tokens of prompt and answer")
    build.add_argument("--draft", type=int, default=limits.draft, help="most tokens of one step")
    build.add_argument("--prefill", type=int, default=limits.prefill, help="most tokens of one pass")
    build.add_argument("--max-patches", type=int, default=limits.max_patches, help="of one frame, 16 x 16 pixels each")
    build.add_argument("--max-visual", type=int, default=limits.max_visual, help="visual tokens of one prompt")
    build.add_argument(
        "--timing-cache", type=Path, help="of the module tensorrt: remembers measured kernels between builds"
    )
    build.set_defaults(run=_build)


def _with_weights(model: str) -> Checkpoint:
    """The checkpoint. Raises WrongModel for a bundle of engines alone, from which nothing can be written."""
    checkpoint = find_checkpoint(model)
    if not checkpoint.weight_files:
        raise WrongModel(
            f"{checkpoint.path} holds engines of TensorRT and no weights; give what they were built from: "
            f"{origin(checkpoint.path)}"
        )
    return checkpoint


def _export(options: argparse.Namespace) -> int:
    require("onnx")
    from qwen3vl_ros.export.graphs import export

    checkpoint = _with_weights(options.model)
    bits = BITS.get(options.precision)
    if options.block and bits != 4:
        raise InvalidInput(
            f"--block {options.block} is of --precision int4; {options.precision} has no blocks, leave it out"
        )
    scheme = Scheme(decoder=bits, block=options.block or Scheme.block) if bits else None
    if checkpoint.quantization == METHOD and options.dtype != "float32":
        raise InvalidInput(f"{checkpoint.path} holds {checkpoint.weight_kind} weights, whose graphs compute in float32")
    if scheme and (options.out is None or options.dtype != "float32"):
        raise InvalidInput(f"--precision {options.precision} needs --out DIR for its weights, and computes in float32")
    out = options.out or checkpoint.path
    variant = "decomposed" if options.decomposed else "attention"
    measure = not options.no_parity and options.dtype != "bfloat16"
    written = export(checkpoint, out, options.dtype, variant, options.slots, measure, scheme)
    for name in (VISION, DECODER):
        print(f"{out / name}: {(out / name).stat().st_size / 1e3:.0f} kB, opset {written['opset']}, {written['dtype']}")
    errors = ", ".join(f"{name} {error:.1e}" for name, error in (written["parity"] or {}).items())
    print(f"relative errors against torch: {errors or 'not measured'}")
    print(f"weights stay in {', '.join(written['layout_sha256'])}")
    return 0


def _build(options: argparse.Namespace) -> int:
    require("onnx")
    from qwen3vl_ros.export.bundles import build
    from qwen3vl_ros.export.random_weights import write_checkpoint

    started = time.monotonic()
    sms = _compute_capabilities(options.sm)
    limits = ShapeLimits(options.cache_slots, options.draft, options.prefill, options.max_patches, options.max_visual)
    with tempfile.TemporaryDirectory(prefix="random-") as directory:
        model = options.model
        if model.startswith(_RANDOM):
            _say(f"writing random weights: {model}")
            model = str(write_checkpoint(model.removeprefix(_RANDOM), Path(directory)))
        bundle = build(
            _with_weights(model),
            options.out,
            sms,
            options.precision,
            options.module,
            limits,
            options.timing_cache,
            options.model or "''",
            say=_say,
        )
    _say(
        f"{bundle.path}: SM {', '.join(map(str, bundle.sms))}, {bundle.precision}, {bundle.module} "
        f"{bundle.version}; {time.monotonic() - started:.0f} s, peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )
    return 0


def _compute_capabilities(text: str) -> list[int]:
    if text == "current":
        return [current_sm()]
    try:
        return [int(sm) for sm in text.split(",")]
    except ValueError:
        raise InvalidInput(
            f"--sm {text!r} is no list of compute capabilities; give e.g. 86,89,120 or current"
        ) from None


def _say(line: str) -> None:
    print(line, flush=True)
