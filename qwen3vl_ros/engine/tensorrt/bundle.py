"""Bundles: directories of engines for certain GPUs, with the files a prompt needs and a manifest of what they are.

`qwen3vl build` writes them, `runtime.py` runs them. Here they are read, checked and refused: what
does not fit the machine is named, beside the command that builds what does. Knows no TensorRT and no GPU.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwen3vl_ros.engine.checkpoint import check_family, read_json
from qwen3vl_ros.engine.network.graph import MANIFEST, typed
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

FORMAT = 1
_SECTION = "tensorrt"  # of the manifest, which may also tell of exported graphs
PARTS = ("vision", "decoder")


@dataclass(frozen=True)
class ShapeLimits:
    """The shapes engines are built for; a pass outside them cannot run.

    cache_slots: tokens of a sequence, prompt and answer. draft: most tokens of one step, and most tokens whose logits
    one pass gives. prefill: most tokens of one pass. max_patches: of one frame. max_visual: visual tokens of one
    prompt.
    """

    cache_slots: int = 2048
    draft: int = 16
    prefill: int = 1024
    max_patches: int = 4096
    max_visual: int = 1024

    def __post_init__(self):
        if not 1 <= 2 * self.draft <= self.prefill <= self.cache_slots:  # a long prompt's parts are longer than a draft
            raise InvalidInput(
                "limits must keep 1 <= draft <= prefill / 2 and prefill <= cache_slots, got "
                f"{self.draft}, {self.prefill}, {self.cache_slots}"
            )
        if self.max_patches < 4 or self.max_patches % 4:
            raise InvalidInput(
                f"max_patches {self.max_patches} must be a multiple of 4, one visual token being 2 x 2 patches"
            )
        if not 1 <= self.max_visual < self.cache_slots:
            raise InvalidInput(
                f"max_visual {self.max_visual} must leave room for text in {self.cache_slots} "
                "cache slots; lower it, or give more slots"
            )


@dataclass(frozen=True)
class Bundle:
    """A checked manifest. `read_bundle` makes it.

    model: name or path of the checkpoint it was made from; parameters: its number of weights. module: "tensorrt" or
    "tensorrt_rtx". dtype: "float16" or "bfloat16", of activations and cache. engines: file name -> what is known of
    it (sm, part, sha256, bytes, layers, …). parity: how far the results were from the reference's, or why that was
    not measured.
    """

    path: Path
    config: dict[str, Any]
    model: str
    model_sha256: str
    parameters: int
    module: str
    version: str
    precision: str
    dtype: str
    limits: ShapeLimits
    engines: dict[str, dict[str, Any]]
    parity: dict[str, Any]

    @property
    def sms(self) -> tuple[int, ...]:
        """Compute capabilities the bundle has all engines for, 89 being 8.9."""
        return tuple(
            sorted(
                sm
                for sm in {e["sm"] for e in self.engines.values()}
                if all(engine_name(part, sm) in self.engines for part in PARTS)
            )
        )

    @property
    def sizes(self) -> Sizes:
        return Sizes.read(self.config)

    def rebuild_command(self, sm: int | str | None = None, **options: int) -> str:
        """What to type for this bundle with another compute capability or limit, or with the installed version."""
        sm = sm if sm is not None else ",".join(map(str, self.sms)) or "current"
        values = {**asdict(self.limits), **options}
        limits = "".join(
            f" --{name.replace('_', '-')} {value}"
            for name, value in values.items()
            if value != getattr(ShapeLimits, name)
        )
        return (
            f"qwen3vl build {typed(self.model)} --out {shlex.quote(str(self.path))} --sm {sm} --precision {self.precision} "
            f"--module {self.module}{limits}"
        )

    def require(self, module: str, version: str, sm: int) -> dict[str, Path]:
        """Engine files for this module, version and compute capability, by part. Raises EngineError naming the
        mismatch."""
        if module != self.module:
            raise EngineError(
                f"{self.path} holds engines of {self.module} and {module} is what runs here; install "
                f"{self.module} {self.version}, or build: {self.rebuild_command(sm)} (with --module "
                f"{module})"
            )
        if version != self.version:
            raise EngineError(
                f"{self.path} was built with {module} {self.version} and {version} is installed; "
                f"engines run only with the version that built them: install {self.version}, or build "
                f"again: {self.rebuild_command(sm)}"
            )
        if sm not in self.sms:
            raise EngineError(
                f"{self.path} has engines for SM {', '.join(map(str, self.sms)) or 'none'} and this "
                f"GPU is SM {sm}; build for it: {self.rebuild_command(sm)}"
            )
        return {part: self.path / engine_name(part, sm) for part in PARTS}

    def require_model(self, model_sha256: str) -> None:
        """Raises WrongModel if the bundle was not made from the weights with this hash (`hash_files`)."""
        if model_sha256 != self.model_sha256:
            raise WrongModel(
                f"{self.path} was made from {self.model} with weights {self.model_sha256[:12]}…, and "
                f"the model asked for has {model_sha256[:12]}…; build again: {self.rebuild_command()}"
            )

    def require_patches(self, frames: list[int]) -> None:
        """frames: patches of each frame of one prompt. Raises InvalidInput if the engines' shapes are too small."""
        most, visual = max(frames, default=0), sum(frames) // self.sizes.vision.merge**2
        if most > self.limits.max_patches:
            raise InvalidInput(
                f"an image of {most} patches exceeds the {self.limits.max_patches} that the engines "
                f"in {self.path} were built for; lower generation.max_pixels, or build again: "
                f"{self.rebuild_command(max_patches=most)}"
            )
        if visual > self.limits.max_visual:
            raise InvalidInput(
                f"{visual} visual tokens in one prompt exceed the {self.limits.max_visual} that the "
                f"engines in {self.path} were built for; send fewer or smaller images, or build "
                f"again: {self.rebuild_command(max_visual=visual)}"
            )


def engine_name(part: str, sm: int) -> str:
    """part: "vision" or "decoder"."""
    return f"{part}.sm{sm}.engine"


def is_bundle(path: Path) -> bool:
    """Whether a directory is a bundle of engines and not, or not only, a checkpoint."""
    manifest = Path(path) / MANIFEST
    return manifest.is_file() and _SECTION in read_json(manifest)


def origin(path: Path) -> str:
    """The model that a bundle says it was built from, as `qwen3vl build` was given it; MODEL where it does not say."""
    told = read_json(path / MANIFEST).get(_SECTION) if (path / MANIFEST).is_file() else None
    model = told.get("model") if isinstance(told, dict) else None
    return model if isinstance(model, str) else "MODEL"


def read_bundle(path: Path, thorough: bool = True) -> Bundle:
    """Check every file of the bundle against its manifest; the contents too if `thorough` (seconds for gigabytes).

    Raises WrongModel naming the file that is missing, damaged or of another make.
    """
    path = Path(path)
    if not is_bundle(path):
        model, out = (path, "BUNDLE") if (path / "config.json").is_file() else ("MODEL", path)
        raise WrongModel(
            f"{path} has no {MANIFEST} that tells of engines, so it is no bundle; make one: "
            f"qwen3vl build {typed(str(model))} --out {shlex.quote(str(out))}, and give {out} as the model"
        )
    manifest = read_json(path / MANIFEST)[_SECTION]
    if manifest.get("format") != FORMAT:
        raise WrongModel(
            f"{path / MANIFEST} has format {manifest.get('format')!r} and this version reads {FORMAT}; "
            "build the bundle again with qwen3vl build"
        )
    try:
        files = manifest["files"]
        bundle = Bundle(
            path,
            {},
            manifest["model"],
            manifest["model_sha256"],
            manifest["parameters"],
            manifest["module"],
            manifest["version"],
            manifest["precision"],
            manifest["dtype"],
            ShapeLimits(**manifest["limits"]),
            manifest["engines"],
            manifest["parity"],
        )
        for name, known in {**files, **bundle.engines}.items():
            if fault := fault_of(path / name, known, thorough):
                raise WrongModel(f"{path / name} {fault}; copy it again, or build again: {bundle.rebuild_command()}")
    except (KeyError, TypeError, InvalidInput) as error:
        raise WrongModel(
            f"{path / MANIFEST} has no usable {error}; build the bundle again with qwen3vl build"
        ) from error
    config = read_json(path / "config.json")
    check_family(config, str(path))
    return Bundle(**{**{name: getattr(bundle, name) for name in Bundle.__dataclass_fields__}, "config": config})


def fault_of(file: Path, known: dict[str, Any], thorough: bool = True) -> str:
    """What is wrong with a file that the manifest lists as `known`; "" if nothing."""
    if not file.is_file():
        return "is missing, though the manifest lists it"
    if file.stat().st_size != known["bytes"]:
        return f"has {file.stat().st_size} bytes where the manifest says {known['bytes']}"
    return "is damaged: its sha256 is not the manifest's" if thorough and hash_files(file) != known["sha256"] else ""


def write_manifest(bundle: Bundle, files: list[str]) -> None:
    """files: the other names in the bundle. The manifest replaces the old one only when it is whole."""
    section = {
        "format": FORMAT,
        **{
            name: getattr(bundle, name)
            for name in (
                "model",
                "model_sha256",
                "parameters",
                "module",
                "version",
                "precision",
                "dtype",
                "engines",
                "parity",
            )
        },
        "limits": asdict(bundle.limits),
        "sms": bundle.sms,
        "files": {name: describe(bundle.path / name) for name in files},
    }
    temporary = bundle.path / (MANIFEST + ".new")
    manifest = read_json(bundle.path / MANIFEST) if (bundle.path / MANIFEST).is_file() else {}
    temporary.write_text(json.dumps({**manifest, _SECTION: section}, indent=1) + "\n")
    temporary.replace(bundle.path / MANIFEST)


def describe(file: Path) -> dict[str, Any]:
    return {"sha256": hash_files(file), "bytes": file.stat().st_size}


def hash_files(*files: Path) -> str:
    """sha256 of the contents of files, one after the other."""
    digest, block = hashlib.sha256(), bytearray(1 << 22)
    for file in files:
        with Path(file).open("rb", buffering=0) as stream:
            while count := stream.readinto(block):
                digest.update(memoryview(block)[:count])
    return digest.hexdigest()
