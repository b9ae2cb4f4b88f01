"""Images and text in, text out: the protocol, the runtimes behind it, and `load_engine`."""

from __future__ import annotations

import dataclasses
import logging

from qwen3vl_ros import threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Clip, Engine, EngineInfo, Limits, Prompt, Turn
from qwen3vl_ros.engine.checkpoint import Checkpoint, embedded_model_dir, find_checkpoint, unreadable
from qwen3vl_ros.engine.choice import Option, survey
from qwen3vl_ros.engine.tensorrt.bundle import origin
from qwen3vl_ros.types import EngineError, OutOfMemory, WrongModel

__all__ = [
    "Clip",
    "Engine",
    "EngineInfo",
    "Limits",
    "Option",
    "Prompt",
    "Turn",
    "embedded_model_dir",
    "find_checkpoint",
    "load_engine",
    "survey",
]
_log = logging.getLogger(__name__)


def load_engine(config: Config | None = None) -> Engine:
    """Load `config.model` on `config.device` and run it once; what was chosen, and why, is in `.info`. A server is only
    connected to: `loading.load_tested_engine` also asks it where a drawn rectangle is.

    Without a configuration: the embedded model on the best device. A runtime asked for by name runs or fails; `auto` is the
    first that works in the order of `survey`, and a server wherever `remote.url` names one.

    Raises ModelNotFound, WrongModel, OutOfMemory, or another EngineError, each saying what to do.
    """
    config = config or Config()
    threads.settle()
    if config.engine == "remote" or (config.engine == "auto" and config.remote.url):
        return _loaded("remote", None, config)
    checkpoint = find_checkpoint(config.model)
    return (
        _first_that_works(checkpoint, config) if config.engine == "auto" else _loaded(config.engine, checkpoint, config)
    )


def _first_that_works(checkpoint: Checkpoint, config: Config) -> Engine:
    passed_over: list[str] = []
    for option in survey(checkpoint, config.device):
        if option.missing:
            passed_over.append(f"not {option.name}: {option.missing}")
            continue
        try:
            engine = _loaded(option.name, checkpoint, config)
        except OutOfMemory:  # another one would be slower, and hardly smaller
            raise
        except EngineError as error:
            _log.warning("engine auto: %s is here and does not work: %s", option.name, error)
            passed_over.append(f"not {option.name}: {error}")
            continue
        why = "; ".join([f"engine auto: {option.name} is the best that works", engine.info.why, *passed_over])
        engine.info = dataclasses.replace(engine.info, why=why)
        return engine
    raise EngineError(f"no runtime can run {checkpoint.path}: " + "; ".join(passed_over))


def _loaded(name: str, checkpoint: Checkpoint | None, config: Config) -> Engine:
    """Each runtime is imported only when chosen: it takes seconds, and a wrong model is refused before."""
    if checkpoint is not None and name != "tensorrt" and not checkpoint.weight_files:
        raise WrongModel(
            f"{checkpoint.path} holds engines of TensorRT and no weights for the runtime {name!r}; use engine "
            f"tensorrt, or give as the model what they were built from: {origin(checkpoint.path)}"
        )
    try:
        if name == "remote":
            from qwen3vl_ros.engine.remote.engine import RemoteEngine

            return RemoteEngine(config.remote, config.generation.max_pixels)
        if name == "tensorrt":
            from qwen3vl_ros.engine.tensorrt.load import load_tensorrt as load
        elif name == "onnxruntime":
            from qwen3vl_ros.engine.onnx.load import load_onnxruntime as load
        elif name == "torch":
            from qwen3vl_ros.engine.torch.load import load_torch as load
        else:
            from qwen3vl_ros.engine.torch.load import load_transformers as load
        engine = load(checkpoint, config)
    except ImportError as error:
        raise EngineError(
            f"the runtime {name!r} cannot be imported: {error}; `qwen3vl doctor` says what is missing"
        ) from error
    except OSError as error:
        if checkpoint is None or error.filename is None:
            raise EngineError(
                f"the runtime {name!r} cannot be loaded: {error}; `qwen3vl doctor` says what is missing"
            ) from error
        raise unreadable(error, checkpoint.path) from error
    engine.warm_up(config.generation.guided)
    return engine
