"""Finds a model directory and proves that it holds a complete Qwen3-VL, before any weight is read.

Knows file layouts (Hugging Face checkpoints, the hub and its cache) and nothing of tensors in memory or of runtimes.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from qwen3vl_ros.engine.network.sizes import METHOD
from qwen3vl_ros.types import ModelNotFound, WrongModel

ARCHITECTURES = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
EXAMPLE_ID = "Qwen/Qwen3-VL-2B-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"[^/\\]+\.safetensors")
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors"]
_HUB_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete Qwen3-VL checkpoint on disk. `quantization` is "" or the method in config.json, e.g. "fp8".

    A bundle of TensorRT engines (bundle.py) may come without weights: weight_files is empty then, and parameters 0.
    """

    path: Path
    config: dict[str, Any]
    architecture: str
    weight_files: tuple[Path, ...]
    parameters: int
    quantization: str

    @property
    def weight_kind(self) -> str:
        """How messages name its quantisation: "int8", "fp8"; "" for plain weights."""
        if self.quantization != METHOD:
            return self.quantization
        return f"int{self.config['quantization_config'].get('decoder', '')}"

    @property
    def max_positions(self) -> int:
        """Longest prompt plus answer, in tokens."""
        found = self.config["text_config"].get("max_position_embeddings", 32768)
        if type(found) is not int or found < 1:
            raise WrongModel(
                f"max_position_embeddings in {self.path / 'config.json'} is {found!r} and no number of tokens; restore the "
                "model's own file"
            )
        return found


def embedded_model_dir() -> Path:
    """Directory of the embedded model, in the source tree or in the installed share. Raises ModelNotFound."""
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / "model" / "embedded"]
    places += [parent / "share" / "qwen3vl_ros" / "model" / "embedded" for parent in package.parents]
    places += [
        Path(prefix) / "share" / "qwen3vl_ros" / "model" / "embedded"
        for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        if prefix
    ]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise ModelNotFound(
        f"the embedded model is missing: no config.json in {places[0]} nor in share/qwen3vl_ros/model/"
        "embedded of this installation; restore model/embedded (git checkout -- model/embedded, then "
        f"build again), or name another model such as {EXAMPLE_ID}"
    )


def find_checkpoint(model: str) -> Checkpoint:
    """The checkpoint meant by `model`: "" = embedded, an existing directory, or a hub id (downloaded on first use).

    Raises ModelNotFound if there is no such thing or it cannot be reached, WrongModel if it is not a complete Qwen3-VL.
    """
    if not model:
        return read_checkpoint(embedded_model_dir())
    try:
        path = Path(model).expanduser()
        directory, other = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError):  # a name too long, of a user who is not there, with a null in it
        path, directory, other = Path(), False, False
    if directory:
        return read_checkpoint(path)
    if other:
        raise ModelNotFound(f"model {model!r} is a file; give the directory that holds config.json and the weights")
    if not _HUB_ID.fullmatch(model):
        raise ModelNotFound(
            f"model {shortened(model)!r} is neither an existing directory nor a hub id; give a directory, an id "
            f"such as {EXAMPLE_ID}, or nothing for the embedded model"
        )
    return _from_hub(model)


def shortened(text: str, most: int = 120) -> str:
    """What a message shows of a name that somebody gave."""
    return text if len(text) <= most else text[:most] + "..."


def small_files(directory: Path) -> list[Path]:
    """What lies beside a checkpoint's weights and belongs to it; a bundle's manifest among it."""
    return [f for pattern in ("*.json", "*.jinja", "*.txt") for f in sorted(directory.glob(pattern))]


def read_checkpoint(path: Path) -> Checkpoint:
    """Check every file a Qwen3-VL needs in `path`. Raises WrongModel naming what is wrong or missing."""
    try:
        return _read_checkpoint(Path(path))
    except OSError as error:
        raise unreadable(error, Path(path)) from error


def unreadable(error: OSError, where: Path) -> WrongModel:
    """What an error of the file system means for a model in `where`."""
    return WrongModel(
        f"{error.filename or where} cannot be read: {error.strerror or error}; let this user read it (chmod, chown), or copy "
        "the model again"
    )


def _read_checkpoint(path: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        raise WrongModel(
            f"{path} has no config.json, so it is no Hugging Face checkpoint; give the directory of a "
            f"Qwen3-VL in safetensors form, e.g. what `hf download {EXAMPLE_ID} --local-dir DIR` writes"
        )
    config = read_json(path / "config.json")
    architecture = check_family(config, str(path))
    missing = [
        name
        for name in (
            "tokenizer.json",
            "preprocessor_config.json|processor_config.json",
            "chat_template.jinja|chat_template.json|tokenizer_config.json",
        )
        if not any((path / n).is_file() for n in name.split("|"))
    ]
    if missing:
        raise WrongModel(
            f"{path} lacks {', '.join(m.replace('|', ' or ') for m in missing)}; copy "
            f"{'it' if len(missing) == 1 else 'them'} from the model it was made from"
        )
    files = () if _holds_engines_only(path) else _weight_files(path)
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise WrongModel(
            f"quantization_config in {path / 'config.json'} is {quantization!r} and no object; restore the model's own file"
        )
    numbers = sum(map(_count_parameters, files))  # several weights are packed into one, where the file says how many
    counted = quantization.get("parameters", numbers)
    if type(counted) is not int or counted < 0:
        raise WrongModel(
            f"quantization_config's parameters in {path / 'config.json'} is {counted!r} and no number of weights; restore the "
            "model's own file"
        )
    return Checkpoint(path, config, architecture, files, counted, str(quantization.get("quant_method", "")))


def check_family(config: dict[str, Any], name: str) -> str:
    """The architecture in a config.json. Raises WrongModel, saying what it is, unless it is a Qwen3-VL."""
    found = config.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise WrongModel(
            f"architectures in config.json of {name} is {shortened(repr(found))} and no list of names; restore the model's own file"
        )
    for architecture in found:
        if architecture in ARCHITECTURES:
            if not isinstance(config.get("text_config"), dict) or not isinstance(config.get("vision_config"), dict):
                raise WrongModel(
                    f"config.json of {name} says {architecture} but has no text_config or vision_config; "
                    "restore the original config.json"
                )
            return architecture
    what = ", ".join(found) or f"model_type {config.get('model_type', 'unknown')!r}"
    raise WrongModel(
        f"{name} is {what}, not a Qwen3-VL ({' or '.join(ARCHITECTURES)}); coordinates, prompts and image "
        f"sizes differ between families, so it would answer wrongly: use e.g. {EXAMPLE_ID}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises WrongModel if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(error, path) from error
    except (ValueError, RecursionError) as error:
        raise WrongModel(f"{path} cannot be read as JSON: {error}; copy the file again") from error
    if not isinstance(value, dict):
        raise WrongModel(f"{path} holds a JSON {type(value).__name__} where an object is needed; copy the file again")
    return value


def _holds_engines_only(path: Path) -> bool:
    return any(path.glob("*.engine")) and not any(path.glob("*.safetensors*"))


def _weight_files(path: Path) -> tuple[Path, ...]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise WrongModel(f"{index} has no weight_map; copy the file again")
        names = list(shards.values())
        if foreign := next((n for n in names if not isinstance(n, str) or not _SHARD.fullmatch(n)), None):
            raise WrongModel(f"{index} names {foreign!r}, which is no file of weights beside it; copy the file again")
        files = [path / name for name in sorted(set(names))]
    else:
        files = [path / "model.safetensors"]
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        pickled = sorted(f.name for f in (*path.glob("*.bin"), *path.glob("*.gguf")))
        why = f" ({', '.join(pickled)} cannot be used)" if pickled else ""
        raise WrongModel(
            f"{path} lacks {', '.join(missing)}{why}; finish the download, or convert the weights to safetensors"
        )
    return tuple(files)


def _count_parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header; finds truncated and foreign files."""
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as stream:
        if stream.read(32).startswith(b"version https://git-lfs"):
            raise WrongModel(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    try:
        with safe_open(file, framework="np") as tensors:
            return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    except SafetensorError as error:
        raise WrongModel(
            f"{file} ({file.stat().st_size} bytes) is truncated or not safetensors: {error}; download it again"
        ) from error


def _from_hub(repo_id: str) -> Checkpoint:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    way_out = (
        f"on a connected machine run `hf download {repo_id} --local-dir DIR`, copy DIR here and pass it as the "
        "model, or leave the model empty for the embedded one"
    )
    try:
        return read_checkpoint(Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=_HUB_FILES)))
    except HFValidationError as error:
        raise ModelNotFound(
            f"model {shortened(repo_id)!r} is no hub id: {shortened(str(error))}; give one such as {EXAMPLE_ID}, or a directory"
        ) from error
    except LocalEntryNotFoundError:
        _log.info("%s is not in the local cache", repo_id)
    except WrongModel as error:
        _log.info("the cached copy of %s is incomplete: %s", repo_id, error)
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFound(f"model {repo_id!r} is not in the local cache and HF_HUB_OFFLINE is set; {way_out}")
    try:
        # Downloads retry for half a minute when there is no network; this asks once.
        HfApi().model_info(repo_id, timeout=_HUB_TIMEOUT_S)
        # The small file first: a wrong family must not cost a download of gigabytes.
        config = hf_hub_download(repo_id, "config.json", etag_timeout=_HUB_TIMEOUT_S)
        check_family(read_json(Path(config)), repo_id)
        _log.warning("downloading %s into %s", repo_id, constants.HF_HUB_CACHE)
        return read_checkpoint(Path(snapshot_download(repo_id, allow_patterns=_HUB_FILES, etag_timeout=_HUB_TIMEOUT_S)))
    except GatedRepoError as error:
        raise ModelNotFound(
            f"model {repo_id!r} is gated: accept its terms on the hub, then `hf auth login`; or {way_out}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub has no model {repo_id!r}, or it is private; check the spelling (e.g. "
            f"{EXAMPLE_ID}), or `hf auth login`"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise WrongModel(
            f"{repo_id} has no config.json (a GGUF or adapter repository?); use e.g. {EXAMPLE_ID}"
        ) from error
    except (OSError, *HfHubHTTPError.__bases__) as error:
        raise ModelNotFound(
            f"model {repo_id!r} is not in the local cache and could not be downloaded ({_root_cause(error)}); {way_out}"
        ) from error


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
