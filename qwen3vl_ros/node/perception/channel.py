"""All that belongs to one camera in the node: its topics in and out, its mailbox, its standing question, its health.

The one camera without a name has the node's own topics and health. Knows nothing of the engine and of other cameras.
"""

from __future__ import annotations

import functools
import threading
from typing import Callable, Mapping, Sequence

from qwen3vl_ros.config import Config
from qwen3vl_ros.node.perception.agenda import Agenda, Asked, Watch
from qwen3vl_ros.node.perception.camera import TOPICS, Camera
from qwen3vl_ros.node.perception.diagnostics import Health, Level, Status
from qwen3vl_ros.node.perception.mailbox import Mailbox, Snapshot
from qwen3vl_ros.node.perception.publishers import PICTURES, RESULTS, TRACKS, Publishers
from qwen3vl_ros.questions import LOOKING_FOR, Question, ReadText
from qwen3vl_ros.types import InvalidInput, quoted

STREAM = "stream"  # the name of the watch that ~/set_prompt and ~/enable change


class Channel:
    """One camera. name: "" is the one without. config(): what holds for it now. mailbox and out exist from configure to
    cleanup, camera while the node is active.

    targets, enabled, prompt_id: what its stream looks for, whether it does, and the number its answers carry. answered: the stream's
    last answer: its picture's stamp, the phrases it was asked for, and the ids of what it saw.
    """

    def __init__(self, node, name: str, config: Callable[[], Config], health: Health, age_s: Callable[[int], float]):
        self._node, self.name, self.config, self.health, self._age_s = node, name, config, health, age_s
        self.inputs, self.own = (f"{name}/", f"~/{name}/") if name else ("", "~/")
        self.mailbox: Mailbox | None = None
        self.out: Publishers | None = None
        self.camera: Camera | None = None
        self.targets, self.enabled, self.prompt_id = config().targets, config().enabled, 0
        self._stale_seen = 0
        self.answered: tuple[int, tuple[str, ...], frozenset[str]] = (0, (), frozenset())

    # -- lifecycle ---------------------------------------------------------------------------------

    def configure(
        self, changed: threading.Condition, prompt_id: int, each: Callable[[str, Snapshot], None] = lambda *_: None
    ) -> None:
        """Begin anew with the parameters' targets. each(camera, snapshot): given every image, see Mailbox. Raises
        InvalidInput for targets no prompt can hold.
        """
        config = self.config()
        self.targets, self.enabled, self.prompt_id, self._stale_seen = config.targets, config.enabled, prompt_id, 0
        self.answered = (0, (), frozenset())
        self.asks()
        self.mailbox = Mailbox(
            config.sync_slop,
            config.use_depth,
            patience_s=self._patience_s,
            changed=changed,
            each=functools.partial(each, self.name),
        )

    def open(self) -> None:
        """Publish from now on."""
        self.out = Publishers(self._node, self.own)

    def close(self) -> None:
        if self.out:
            self.out.close()
        self.out = None

    def subscribe(self) -> None:
        self.mailbox.clear()
        self.camera = Camera(self._node, self.config(), self.mailbox, self.health, self.inputs)

    def unsubscribe(self) -> None:
        if self.camera:
            self.camera.close()
        self.camera = None

    def _patience_s(self, stamp_ns: int) -> float:
        """A fifth of max_age is left for the engine's thread to take the image."""
        return 0.8 * self.config().max_age - self._age_s(stamp_ns)

    # -- the standing question ---------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether the stream reads text, which takes no targets."""
        return self.config().task == ReadText.name

    @property
    def subject(self) -> str:
        """What the stream looks for, in words; empty without targets."""
        return "text" if self.reads else ", ".join(self.targets)

    def question(self, targets: Sequence[str] = (), task: str = "") -> Question:
        """targets, task: empty are the stream's. Raises InvalidInput for an unknown task, and for phrases no prompt can hold."""
        task = task or self.config().task
        if task == ReadText.name:
            if targets:
                raise InvalidInput(
                    f"task {task!r} reads all text and takes no targets; leave them out, or name the task that looks for them"
                )
            return ReadText()
        if task not in LOOKING_FOR:
            raise InvalidInput(
                f"task {quoted(task)} is unknown; it must be one of {', '.join((*LOOKING_FOR, ReadText.name))}"
            )
        return LOOKING_FOR[task](tuple(targets) or self.targets)

    def check_prompt(self, targets: tuple[str, ...]) -> None:
        """Raises InvalidInput for targets that the stream cannot have; none pause it."""
        if self.reads:
            raise InvalidInput("the stream's task is read_text, which takes no targets; ~/enable pauses it")
        if targets:
            self.question(targets)

    def asks(self) -> Asked | None:
        """What the stream asks; None without targets."""
        return Asked(self.question(), self.prompt_id) if self.subject else None

    def watch(self) -> Watch | None:
        """The stream; None while it is paused."""
        asked = self.asks() if self.enabled else None
        return asked and Watch(self.name, STREAM, asked, answer_s=self.config().generation.deadline)

    # -- diagnostics -------------------------------------------------------------------------------

    def status(self, agenda: Agenda | None, unfollowed: Mapping[str, int]) -> Status:
        """Its health, with the agenda's counts. unfollowed: images of each camera that came too fast to be followed."""
        self.health.fact("prompt", f"{self.prompt_id}: {self.subject or '(nothing)'}")
        self.health.fact("enabled", self.enabled)
        if self.camera:
            topic = self.camera.image_topic
            self.health.fact("image topic", f"{topic}, {self._node.count_publishers(topic)} publishers")
        if agenda is None:
            return self.health.status()
        stale = agenda.stale[self.name]
        self._watch_staleness(stale)
        return self.health.status(
            {
                "dropped: stale": stale,
                "dropped: replaced by a newer": self.mailbox.superseded,
                "cancelled for a call": agenda.preempted[self.name],
                "images": self.mailbox.images,
                "dropped: not followed": unfollowed.get(self.name, 0),
            }
        )

    def _watch_staleness(self, stale: int) -> None:
        """Warn while images are dropped for their age."""
        if stale > self._stale_seen:
            self.health.problem(
                "age",
                Level.WARN,
                f"{stale - self._stale_seen} images were older than max_age ({self.config().max_age:g} s) when "
                "their turn came; is the camera's clock right?",
            )
        self._stale_seen = stale


def check_names(node, cameras: tuple[str, ...], services: tuple[str, ...]) -> None:
    """Raises InvalidInput for a camera whose topics would stand under a name that the node uses itself."""
    rclpys = [service.srv_name.rpartition("/")[2] for service in node.services]
    taken = {*RESULTS, *TRACKS, *PICTURES, *services, *rclpys, "transition_event", node.get_name()}
    taken |= {topic.partition("/")[0] for topic in TOPICS}
    for name in cameras:
        if name in taken:
            raise InvalidInput(
                f"parameter cameras: {name!r} is the name of a topic or service of the node itself; call the camera otherwise"
            )
