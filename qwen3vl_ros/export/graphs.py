"""Writes a checkpoint's vision.onnx and decoder.onnx; the weights stay where they are, in its *.safetensors.

The graphs' initializers point into the weight files beside them, so a graph has some 100 kB and stays valid when only
the values of weights change. The largest errors against torch are measured and written to manifest.json. Knows the
files; `networks` knows the graphs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qwen3vl_ros.engine.checkpoint import Checkpoint, read_json, small_files
from qwen3vl_ros.engine.network.graph import (
    DECODER,
    FORMAT,
    MANIFEST,
    OLDER,
    VISION,
    changed_weights,
    decoder_values,
    file_sha256,
    layout_sha256,
    vision_values,
)
from qwen3vl_ros.engine.network.sizes import METHOD, Sizes
from qwen3vl_ros.export import require
from qwen3vl_ros.export.networks import decoder_model, vision_model
from qwen3vl_ros.export.operators import OPSETS, Weights
from qwen3vl_ros.export.scheme import Scheme
from qwen3vl_ros.export.weight_only import write_quantized
from qwen3vl_ros.files import copy_whole, replaced_whole, require_room, write_whole
from qwen3vl_ros.types import InvalidInput, WrongModel


def export(
    checkpoint: Checkpoint,
    out: Path,
    dtype: str = "float32",
    variant: str = "attention",
    slots: int = 0,
    measure: bool = True,
    scheme: Scheme | None = None,
) -> dict[str, Any]:
    """Write both graphs and the manifest into `out`; returns the manifest.

    scheme: with the weights of the linears quantised so, in a checkpoint of their own in `out`. Of a checkpoint that an
    earlier export quantised, the graphs alone are written, and nothing is compared.

    A directory other than the checkpoint's gets copies of its files: graphs reach no weights outside.
    measure: compare with torch. Raises WrongModel for a checkpoint that is not the one config.json describes.
    """
    original = checkpoint
    if scheme is None and checkpoint.quantization == METHOD:
        scheme, measure = Scheme.read(checkpoint.config), False
        if changed := changed_weights(checkpoint.path):
            raise WrongModel(
                f"{', '.join(changed)} in {checkpoint.path} are not the weights that were written there; copy them again, "
                f"or export the original model again with --precision {checkpoint.weight_kind}"
            )
    elif scheme is not None:
        checkpoint = write_quantized(checkpoint, out, scheme)
    sizes, weights = Sizes.read(checkpoint.config), Weights(checkpoint)
    nbits = scheme.of if scheme else None
    inside = out.resolve() == checkpoint.path.resolve()
    links = [f for f in checkpoint.weight_files if f.is_symlink() or f.stat().st_nlink > 1]
    if not 0 <= slots <= checkpoint.max_positions:
        raise InvalidInput(
            f"--slots {slots} is no length of a cache: give 1 to {checkpoint.max_positions}, the positions of "
            f"{checkpoint.path}, or 0 where each pass decides"
        )
    if not inside and _holds_another(out, checkpoint):
        raise InvalidInput(
            f"--out {out} holds another model, or what is left of an export that was broken off; give a new directory"
        )
    if inside and links:
        raise InvalidInput(
            f"{links[0]} is a link, and ONNX reads no weights through links; give another directory "
            "with --out, which gets a copy"
        )
    models = {
        VISION: vision_model(sizes, weights, dtype, variant, nbits),
        DECODER: decoder_model(sizes, weights, dtype, variant, slots, nbits),
    }
    if variant != "decomposed":
        models |= {
            OLDER[VISION]: vision_model(sizes, weights, dtype, "decomposed", nbits),
            OLDER[DECODER]: decoder_model(sizes, weights, dtype, "decomposed", slots, nbits),
        }
    if not inside:
        bundle(checkpoint, out)
    for name, model in models.items():
        with replaced_whole(out / name) as unfinished:
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(unfinished), full_check=True)
    if not inside:  # what makes a checkpoint of the files comes last
        copy_whole(checkpoint.path / "config.json", out / "config.json")
    manifest = out / MANIFEST
    try:
        everything = read_json(manifest) if manifest.is_file() else {}
    except WrongModel:  # nothing can read it, and to export again is what others are told to do about it
        everything = {}
    files = [f.name for f in checkpoint.weight_files]
    everything["onnx"] = written = {
        "format": FORMAT,
        "dtype": dtype,
        "opset": OPSETS[variant],
        "variant": variant,
        "slots": slots,
        "sha256": {name: file_sha256(out / name) for name in ("config.json", *models)},
        "layout_sha256": {name: layout_sha256(out / name) for name in files},
        "weights_sha256": {name: file_sha256(out / name) for name in files},
        "shapes": {
            name: {
                side: {v.name: [v.dtype, *v.shape] for v in values} for side, values in zip(("inputs", "outputs"), ends)
            }
            for name, ends in ((VISION, vision_values(sizes)), (DECODER, decoder_values(sizes, slots or "S")))
        },
        "max_positions": checkpoint.max_positions,
        "weights": scheme.as_dict() if scheme else None,
        "parity": None,
    }
    write_whole(manifest, json.dumps(everything, indent=1).encode() + b"\n")
    if measure:
        written["parity"] = found = parity(original, out)
        if not all(map(math.isfinite, found.values())):
            raise WrongModel(
                f"the graphs of {original.path} compute what is no number ({found}); download its weights again"
            )
        write_whole(manifest, json.dumps(everything, indent=1).encode() + b"\n")
    return written


def _holds_another(out: Path, checkpoint: Checkpoint) -> bool:
    """Whether `out` has a model that no earlier export of this checkpoint put there."""
    config = out / "config.json"
    return config.is_file() and (
        not (out / MANIFEST).is_file() or file_sha256(config) != file_sha256(checkpoint.path / "config.json")
    )


def parity(checkpoint: Checkpoint, directory: Path) -> dict[str, float]:
    """Largest errors against torch in float32, relative to the largest number: two images and a prompt, then steps.

    Needs torch, onnxruntime, and memory for the network twice. Raises EngineError without them, and in bfloat16.
    """
    require("torch", "onnxruntime", otherwise=", or add --no-parity")
    import torch

    from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
    from qwen3vl_ros.engine.prompt.prepare import mrope_positions
    from qwen3vl_ros.engine.torch.network import Network
    from qwen3vl_ros.engine.torch.runtime import TorchRuntime

    sizes, rng = Sizes.read(checkpoint.config), np.random.default_rng(0)
    grid = np.array([(1, 4, 6), (1, 8, 2)]) * (1, sizes.vision.merge, sizes.vision.merge)
    pixels = rng.uniform(-1, 1, (int(grid.prod(1).sum()), sizes.vision.patch_values)).astype(np.float32)
    ids = rng.integers(0, min(sizes.image_id, sizes.video_id), 64)
    ids[4:28] = ids[30:46] = sizes.image_id
    positions = mrope_positions(ids == sizes.image_id, grid, sizes.vision.merge)
    found = []
    for runtime in (TorchRuntime(Network.load(checkpoint, "cpu", torch.float32), 128), OnnxRuntime(directory, 128)):
        seen = runtime.encode(pixels, grid)
        merged, deep = (seen.features[1:], seen.deep[:, 1:]) if hasattr(seen, "features") else seen
        logits = [
            runtime.prefill(ids, seen, positions, keep=8).logits(),
            runtime.step([5, 6, 7]).logits(),
            runtime.step([8]).logits(),
        ]
        found.append((merged, np.stack([np.asarray(d) for d in deep]), np.concatenate(logits)))
        runtime.close()
    return {
        name: float(np.abs(np.float32(ours) - np.float32(theirs)).max() / np.abs(np.float32(theirs)).max())
        for name, theirs, ours in zip(("vision", "deep", "logits"), *found)
    }


def bundle(checkpoint: Checkpoint, out: Path) -> None:
    """Copies of all files of a checkpoint but config.json in `out`: ONNX refuses links, hard or soft, to external data.
    Raises OutOfResources before the first where they have no room."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = [f for f in small_files(checkpoint.path) if f.name not in (MANIFEST, "config.json")]
    wanted += [
        f
        for f in checkpoint.weight_files
        if not (out / f.name).is_file() or file_sha256(out / f.name) != file_sha256(f)
    ]
    require_room(out, sum(f.stat().st_size for f in wanted), f"a copy of {checkpoint.path}")
    for file in wanted:
        copy_whole(file, out / file.name)
