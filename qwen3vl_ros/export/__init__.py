"""Model files for runtimes that compile: ONNX graphs beside a checkpoint's weights, and bundles of TensorRT engines.

`qwen3vl export` and `qwen3vl build` (commands.py) are the way in. What writes the files needs packages that running
them does not; each is imported where it is needed, and a missing one is an error that says how to get it.
"""

from __future__ import annotations

import importlib

from qwen3vl_ros.types import EngineError

__all__ = ["require"]


def require(*modules: str, otherwise: str = "") -> None:
    """Imports `modules`. Raises EngineError for one that cannot be, with the command that installs it.

    otherwise: what the user can do without them.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == module
            why = "is not installed" if absent else f"is installed and cannot be imported ({error})"
            raise EngineError(f"this needs {module}, which {why}; pip install {module}{otherwise}") from error
