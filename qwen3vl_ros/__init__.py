"""Qwen3-VL between a robot's camera and its planner: boxes in 2D and 3D, grasp targets, spatial answers."""

import os
from pkgutil import extend_path

# The generated msg/ and srv/ lie in the install space; with the source tree before it on the path they would be hidden.
__path__ = extend_path(__path__, __name__)

# A robot's software phones nowhere by itself. Read by onnxruntime (1.29 and later send usage data, and keep it in ~/.cache)
# and huggingface_hub when they start; whoever wants it sets 0.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")
