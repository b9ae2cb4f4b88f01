"""Images and text in, text out: the protocol, the runtimes behind it, and `load_engine`."""

from __future__ import annotations

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Engine, EngineInfo
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, find_checkpoint
from qwen3vl_ros.types import EngineError

__all__ = ["Engine", "EngineInfo", "embedded_model_dir", "find_checkpoint", "load_engine"]


def load_engine(config: Config | None = None) -> Engine:
    """Load `config.model` on `config.device` and run it once; what was chosen, and why, is in `.info`.

    Without a configuration: the embedded model on the best device.

    Raises ModelNotFound, WrongModel, OutOfMemory, or another EngineError, each saying what to do.
    """
    config = config or Config()
    checkpoint = find_checkpoint(config.model)
    try:  # here, because it takes seconds, and a wrong model should be refused before
        from qwen3vl_ros.engine.transformers_engine import TransformersEngine
    except ImportError as error:
        raise EngineError(f"the runtime 'transformers' cannot be imported: {error}; `qwen3vl doctor` says what is "
                          "missing") from error
    engine = TransformersEngine(checkpoint, config)
    engine.warm_up()
    return engine
