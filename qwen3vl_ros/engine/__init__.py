"""Images and text in, text out: the protocol, the runtimes behind it, and `load_engine`."""

from __future__ import annotations

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Engine, EngineInfo
from qwen3vl_ros.engine.checkpoint import Checkpoint, embedded_model_dir, find_checkpoint
from qwen3vl_ros.types import EngineError

__all__ = ["Engine", "EngineInfo", "embedded_model_dir", "find_checkpoint", "load_engine"]


def load_engine(config: Config | None = None) -> Engine:
    """Load `config.model` on `config.device` and run it once; what was chosen, and why, is in `.info`.

    Without a configuration: the embedded model on the best device.

    Raises ModelNotFound, WrongModel, OutOfMemory, or another EngineError, each saying what to do.
    """
    config = config or Config()
    checkpoint = find_checkpoint(config.model)
    name = "transformers" if config.engine == "auto" else config.engine
    try:
        engine = _loaded(name, checkpoint, config)
    except ImportError as error:
        raise EngineError(f"the runtime {name!r} cannot be imported: {error}; `qwen3vl doctor` says what is "
                          "missing") from error
    engine.warm_up()
    return engine


def _loaded(name: str, checkpoint: Checkpoint, config: Config) -> Engine:
    """Each runtime is imported only when chosen: it takes seconds, and a wrong model is refused before."""
    if name == "transformers":
        from qwen3vl_ros.engine.on_torch import load_transformers as load
    elif name == "torch":
        from qwen3vl_ros.engine.on_torch import load_torch as load
    else:
        raise EngineError(f"there is no runtime {name!r}; use torch or transformers")
    return load(checkpoint, config)
