"""Answers in words that rest on metres: a question is understood, what it names is found and measured, and told.

`Asker` is the whole path; joins the questions, the pipeline and geometry, and knows nothing of ROS.
"""

from qwen3vl_ros.asking.asker import Asker
from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.asking.outcome import Code, Measurement, Outcome, Who
from qwen3vl_ros.asking.sessions import Session, Sessions

__all__ = ["Asker", "Code", "Measurement", "Outcome", "Session", "Sessions", "Shot", "Who"]
