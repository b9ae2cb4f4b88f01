"""An engine ready for use: loaded, and, where it is a server, tested on a question whose answer we know.

Everybody who wants answers loads here; `engine.load_engine` knows no questions and tests nothing.
"""

from __future__ import annotations

import numpy as np

from qwen3vl_ros import engine as engines
from qwen3vl_ros.config import Config, GenerationConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Engine, Limits, Prompt
from qwen3vl_ros.server_check import self_test

_TEST_LIMITS = Limits.of(GenerationConfig())


def load_tested_engine(config: Config | None = None) -> Engine:
    """See engine.load_engine. A server is also asked for the box of a drawn rectangle, unless `remote.self_test` is false.

    Raises WrongModel too for a server whose coordinates are off.
    """
    config = config or Config()
    engine = engines.load_engine(config)
    if engine.info.runtime == "remote" and config.remote.self_test:
        control = Control(config.remote.start_timeout)  # one for both pictures: it bounds the start

        def ask(rgb: np.ndarray, prompt: str) -> str:
            said = engine.generate(Prompt(prompt, [rgb]), _TEST_LIMITS, control)
            # The coordinates of an answer that was cut short may be those of its thoughts.
            return said.text if said.finish_reason in ("stop", "repeat") else ""

        try:
            with engine.starting():
                result = self_test(ask)
            engine.self_tested(result)
        except BaseException:
            engine.close()
            raise
    return engine
