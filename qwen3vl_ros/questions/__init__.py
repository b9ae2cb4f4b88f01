"""What can be asked of a picture: one file a question, and the parsers of what models really write."""

from qwen3vl_ros.questions.ask import Ask
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.detect import Detect
from qwen3vl_ros.questions.detect_3d import Detect3D
from qwen3vl_ros.questions.dial import Dial
from qwen3vl_ros.questions.gauge import Gauge
from qwen3vl_ros.questions.holds import Holds
from qwen3vl_ros.questions.plan import Plan
from qwen3vl_ros.questions.point import Point
from qwen3vl_ros.questions.put import Put
from qwen3vl_ros.questions.read_text import ReadText
from qwen3vl_ros.questions.tell import Tell
from qwen3vl_ros.questions.translate import Translate
from qwen3vl_ros.questions.understand import Understand

# The questions that look for targets, by the name that parameters, messages and the command line give them.
LOOKING_FOR = {question.name: question for question in (Detect, Point, Detect3D)}

__all__ = [
    "LOOKING_FOR",
    "Ask",
    "Detect",
    "Detect3D",
    "Dial",
    "Gauge",
    "Holds",
    "Plan",
    "Point",
    "Put",
    "Question",
    "ReadText",
    "Tell",
    "Translate",
    "Understand",
]
