"""Qwen3-VL between a robot's camera and its planner: boxes in 2D and 3D, grasp targets, spatial answers."""

from pkgutil import extend_path

# The generated msg/ and srv/ lie in the install space; with the source tree before it on the path they would be hidden.
__path__ = extend_path(__path__, __name__)
