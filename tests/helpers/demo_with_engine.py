"""The demo with a perception node whose engine follows a script; everything else is the product.

usage: demo_with_engine.py ENGINE [arguments of the demo]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import qwen3vl_ros.demo.__main__ as demo
import qwen3vl_ros.demo.run as run

HERE = Path(__file__).parent


if __name__ == "__main__":
    engine, *arguments = sys.argv[1:]
    os.environ["DEMO_ENGINE"] = engine
    os.environ["DEMO_OPTIONS"] = json.dumps(vars(demo._options(arguments)))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    run.NODE_MODULE = "demo_node"
    sys.exit(demo.main(arguments))
