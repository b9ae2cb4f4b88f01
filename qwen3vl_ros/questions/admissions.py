"""What an honest model says where it cannot answer: fixed sentences, so that a caller can tell them from answers.

The embedded model is trained to say them word for word. Knows nothing of pictures or engines.
"""

from __future__ import annotations

# Beyond what it was taught to see or do.
BEYOND = {
    "en": "I do not know: that is beyond what I can see or do.",
    "zh": "我不知道：这超出了我能看到和能做到的。",
}
# A length or a distance was asked for, and no measured fact was given with the question.
UNMEASURED = {
    "en": "I cannot tell that by looking: it has to be measured.",
    "zh": "光看无法知道：这需要测量。",
}


def admits(text: str) -> bool:
    """Whether an answer says that there is none."""
    return text.strip() in {*BEYOND.values(), *UNMEASURED.values()}
