"""The engine on one of our runtimes: prepare, keep what the cache already holds, see, read, decode, transcribe.

What a prompt and the one before have in common at the beginning is not read again: the words before an image from frame
to frame, the image too where only the question behind it is another, and a chat where it goes on. Knows no tensors, no
boxes and no ROS.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

import numpy as np

from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt, Runtime, Scores
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.decoding.drafts import AnswerDrafter, Drafts
from qwen3vl_ros.engine.decoding.loop import Constraint, Decoded, Interrupted, Sampling, decode
from qwen3vl_ros.engine.decoding.transcript import TextStream, transcribe
from qwen3vl_ros.engine.prompt.prepare import Preparation, Prepared
from qwen3vl_ros.types import EngineError, Generation

if TYPE_CHECKING:
    from qwen3vl_ros.engine.decoding.grammar import Grammar

SMALL_MODEL = 100_000_000  # weights; below, a second CPU thread costs more than it gives
GPU_PASS_COST = 0.004  # of one more drafted token, in passes
_CACHE_TOKENS = 8192  # where nothing asks for more: several 640x480 images, a prompt and an answer
_WARM_UP = Limits(max_new_tokens=2, deadline_s=3600.0, repeat_limit=4)
_PROMPT_TOKENS = 1024  # kept free for text where the images' size is known


class LocalEngine:
    """One loaded model on one runtime (see base.Engine).

    around(doing): entered around every answer; turns the device's errors into ours. pass_cost: what one more drafted
    token costs, in passes; little on a GPU, which waits for memory, more on a CPU, which has to compute.
    sampling: how the next answers are chosen; None is greedy.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        preparation: Preparation,
        runtime: Runtime,
        info: EngineInfo,
        *,
        pass_cost: float,
        around: Callable[[str], AbstractContextManager] = lambda doing: nullcontext(),
    ):
        self.info, self._around = info, around
        self.sampling: Sampling | None = None
        self._checkpoint, self._preparation, self._runtime = checkpoint, preparation, runtime
        self._reader = PromptReader(runtime, preparation)
        bytes_of = preparation.tokens.bytes_of
        self._drafts = Drafts(lambda token_id: bytes_of(token_id).isdigit(), pass_cost)
        self._grammar: Grammar | None = None
        self._status: dict[str, str] = {}

    def warm_up(self) -> None:
        """Answer two tokens about a grey image: proves that the model runs and its memory suffices."""
        self.generate(Prompt("?", [np.full((64, 64, 3), 128, np.uint8)]), _WARM_UP)

    def generate(
        self,
        prompt: Prompt,
        limits: Limits,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """See Engine.generate."""
        if self._runtime is None:
            raise EngineError("this engine was closed; load a new one")
        started = time.perf_counter()
        control = (control or Control()).within(limits.deadline_s)
        text = TextStream(on_text, self.info.thinking) if on_text else None
        images = sum(len(turn.images) for turn in prompt.turns)
        with self._around(f"answering with {images} images"):
            prepared = self._preparation(prompt)
            limits = dataclasses.replace(limits, max_new_tokens=min(limits.max_new_tokens, self._room(prepared)))
            constraint = self._constraint(prompt.schema) if prompt.schema is not None else None
            drafter = self._drafts.drafter(prompt.stream, prompt.text) if prompt.stream else None
            preprocess_s = time.perf_counter() - started
            run = self._decode(prepared, limits, control, drafter, constraint, text)
        if drafter and run.finish_reason not in ("cancelled", "deadline"):
            drafter.finished(run.token_ids)
        reused = self._reader.reused if run.forward_passes else 0
        self._reader.answered(run.token_ids)
        self._status = {
            "last answer": f"{len(run.token_ids)} tokens in {run.forward_passes} passes, {run.accepted} of "
            f"{run.drafted} drafted; {reused} of the prompt's {len(prepared.ids)} kept"
        }
        said = transcribe(run.pieces, self.info.thinking)
        tokens = slice(said.first_token, said.last_token)
        if text is not None:
            text.add(b"", last=True)
        return Generation(
            said.text,
            tuple(run.token_ids[tokens]),
            np.array(run.logprobs[tokens], np.float32),
            tuple(said.token_ends),
            run.finish_reason,
            said.reasoning,
            prompt.text,
            len(prepared.ids),
            len(run.token_ids),
            run.forward_passes,
            preprocess_s,
            run.prefill_s,
            run.decode_s,
            run.drafted,
            run.accepted,
            reused,
        )

    def status(self) -> dict[str, str]:
        """See Engine.status: what the last answer cost."""
        return self._status

    def close(self) -> None:
        """Free the device's memory; the engine cannot be used afterwards."""
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = self._reader = None

    def _room(self, prepared: Prepared) -> int:
        """Tokens left for the answer."""
        room = self._runtime.capacity - len(prepared.ids)
        if room < 1:
            raise EngineError(
                f"the prompt takes {len(prepared.ids)} tokens ({prepared.visual_tokens} of them visual) and "
                f"the model holds {self._runtime.capacity}; shorten the text, lower "
                "generation.max_pixels or send fewer images"
            )
        return room

    def _constraint(self, schema: dict[str, Any]) -> Constraint:
        if self._grammar is None:
            from qwen3vl_ros.engine.decoding.grammar import (
                Grammar,  # here, because only guided answers need its library
            )

            self._grammar = Grammar(
                self._checkpoint.path / "tokenizer.json",
                self._preparation.tokens.stop_ids,
                self._checkpoint.config["text_config"]["vocab_size"],
                self.info.thinking,
            )
        return self._grammar.constraint(schema)

    def _decode(
        self,
        prepared: Prepared,
        limits: Limits,
        control: Control,
        drafter: AnswerDrafter | None,
        constraint: Constraint | None,
        text: TextStream | None,
    ) -> Decoded:
        runtime, tokens = self._runtime, self._preparation.tokens

        def interrupt() -> None:
            if control.interruption:
                raise Interrupted

        runtime.between_layers = interrupt
        return decode(
            lambda draft: self._reader.read(prepared, draft),
            runtime.step,
            runtime.rollback,
            stop_ids=tokens.stop_ids,
            bytes_of=tokens.bytes_of,
            limits=limits,
            control=control,
            longest_step=runtime.longest_step,
            drafter=drafter,
            constraint=constraint,
            sampling=self.sampling,
            on_bytes=text.add if text else None,
        )


class _Image(NamedTuple):
    """What the vision tower sees of an image: N x patch_values float32, and (frames, rows, columns) of patches."""

    patches: np.ndarray
    grid: tuple[int, int, int]

    def equals(self, other: _Image) -> bool:
        """Value for value; piece by piece, because two pictures of a camera differ in their first."""
        a, b = self.patches, other.patches
        return self.grid == other.grid and all(
            np.array_equal(a[i : i + 64], b[i : i + 64]) for i in range(0, len(a), 64)
        )


class PromptReader:
    """Brings a prompt into a runtime's cache, and leaves there what stands there already.

    reused: how many tokens of the last prompt read were left.
    """

    def __init__(self, runtime: Runtime, preparation: Preparation):
        self._runtime, self._merge = runtime, preparation.rule.merge
        self._visual_ids = (preparation.tokens.image_id, preparation.tokens.video_id)
        # A row for each token of the prompt and its answer in the cache, with all that the network can tell it by: id, position (3),
        # and the number of the image a visual token is of.
        self._rows = np.empty((0, 5), np.int64)
        self._images: dict[int, _Image] = {}  # that prompt's, by number
        self._numbers = count(1)
        self._seen: tuple[tuple[int, ...], Any] = ((), None)  # numbers of the images last encoded, and their features
        self.reused = 0

    def read(self, prepared: Prepared, draft: Sequence[int] = ()) -> Scores:
        """The pass over the part of the prompt that is new, and over a draft behind it; scores of the prompt's last
        token and of the draft's."""
        runtime = self._runtime
        images = self._numbered(prepared)
        rows = self._rows_of(prepared, [*images])
        self.reused = self._common(rows)
        runtime.rollback(runtime.length - self.reused)
        self._rows, self._images = rows[: self.reused], images
        features = self._features({n: images[n] for n in images if n in rows[self.reused :, 4]})
        behind = prepared.positions[:, -1].max() + 1 + np.arange(len(draft))
        positions = np.concatenate([prepared.positions[:, self.reused :], np.broadcast_to(behind, (3, len(draft)))], 1)
        scores = runtime.prefill([*prepared.ids[self.reused :].tolist(), *draft], features, positions, 1 + len(draft))
        self._rows = rows
        return scores

    def answered(self, token_ids: Sequence[int]) -> None:
        """The answer to the prompt last read: what of it stands in the cache begins the history of the next turn."""
        ids = np.array(token_ids[: self._runtime.length - len(self._rows)], np.int64)
        if len(ids):
            positions = self._rows[-1, 1:4].max() + 1 + np.arange(len(ids))
            rows = np.column_stack((ids, *[positions] * 3, np.zeros_like(ids)))
            self._rows = np.concatenate((self._rows, rows))

    def _numbered(self, prepared: Prepared) -> dict[int, _Image]:
        """The prompt's images by number: the old number for an image of the last prompt, else a new one."""
        ends = np.cumsum(prepared.grid.prod(1))
        images = map(_Image, np.split(prepared.pixels, ends[:-1]), map(tuple, prepared.grid.tolist()))
        known, numbered = dict(self._images), {}
        for image in images:
            number = next((n for n, old in known.items() if old.equals(image)), None) or next(self._numbers)
            known.pop(number, None)  # the same picture twice in a prompt is two images
            numbered[number] = image
        return numbered

    def _rows_of(self, prepared: Prepared, numbers: list[int]) -> np.ndarray:
        image = np.zeros(len(prepared.ids), np.int64)
        image[np.isin(prepared.ids, self._visual_ids)] = np.repeat(numbers, prepared.grid.prod(1) // self._merge**2)
        return np.column_stack((prepared.ids, prepared.positions.T, image))

    def _common(self, rows: np.ndarray) -> int:
        """How many rows the cache holds already; never all, because the last one's scores are wanted, and no part of an
        image, because its features go in whole."""
        held = min(len(self._rows), self._runtime.length, len(rows) - 1)
        differs = (rows[:held] != self._rows[:held]).any(1)
        same = int(differs.argmax()) if differs.any() else held
        split = np.intersect1d(rows[:same, 4], rows[same:, 4])
        return min([same, *(int((rows[:, 4] == number).argmax()) for number in split if number)])

    def _features(self, images: dict[int, _Image]) -> Any:
        numbers = tuple(images)
        if not numbers:
            return None
        if numbers != self._seen[0]:
            self._seen = ((), None)  # the old ones' memory is free for the new
            pixels = np.concatenate([image.patches for image in images.values()])
            grid = np.array([image.grid for image in images.values()], np.int64)
            self._seen = numbers, self._runtime.encode(pixels, grid)
        return self._seen[1]


def cache_tokens(checkpoint: Checkpoint, config: Config, token_side: int) -> int:
    """How many tokens a cache that is allocated at once should hold. token_side: pixels of a visual token's side."""
    generation = config.generation
    wanted = generation.max_pixels // token_side**2 + _PROMPT_TOKENS + generation.max_new_tokens
    return min(checkpoint.max_positions, max(_CACHE_TOKENS, wanted))
