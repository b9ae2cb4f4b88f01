"""Qwen3-VL between a robot's camera and its planner: boxes in 2D and 3D, grasp targets, spatial answers."""
