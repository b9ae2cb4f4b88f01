"""The engine on one of our runtimes: prepare, read, decode, transcribe.

Knows no tensors, no boxes and no ROS.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from qwen3vl_ros import threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.ahead import SeeingAhead
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt, Runtime, Scores, Upcoming
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.decoding.drafts import AnswerDrafter, Drafts
from qwen3vl_ros.engine.decoding.loop import Constraint, Decoded, Interrupted, Sampling, decode
from qwen3vl_ros.engine.decoding.transcript import TextStream, transcribe
from qwen3vl_ros.engine.prompt.prepare import Preparation, Prepared
from qwen3vl_ros.engine.prompt.reader import PromptReader
from qwen3vl_ros.types import EngineError, Generation

if TYPE_CHECKING:
    from qwen3vl_ros.engine.decoding.grammar import Grammar

GPU_PASS_COST = 0.004  # of one more drafted token, in passes
_CACHE_TOKENS = 8192  # where nothing asks for more: several 640x480 images, a prompt and an answer
_WARM_UP = Limits(max_new_tokens=2, deadline_s=3600.0, repeat_limit=4)
# Pixels of an image for a large model on a CPU, where nobody chose: seeing takes as long as the square of them, and for 2B on two
# cores 1 s at 640x480, 5 s here, minutes at 3840x2160.
_CPU_AREA = 1024 * 768
_PROMPT_TOKENS = 1024  # kept free for text where the images' size is known


class LocalEngine:
    """One loaded model on one runtime (see base.Engine).

    around(doing): entered around every answer; turns the device's errors into ours. pass_cost: what one more drafted
    token costs, in passes; little on a GPU, which waits for memory, more on a CPU, which has to compute.
    sampling: how the next answers are chosen; None is greedy. see_ahead: ask `upcoming`, and see what it says while an answer is
    being said; the runtime must be a RuntimeAhead.
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
        see_ahead: bool = False,
    ):
        self.info, self._around = info, around
        self.sampling: Sampling | None = None
        self.upcoming: Upcoming | None = None
        self._checkpoint, self._preparation, self._runtime = checkpoint, preparation, runtime
        self._reader = PromptReader(runtime, preparation)
        prepare = lambda prompt, answer: preparation(prompt, runtime.capacity, answer)
        self._ahead = SeeingAhead(runtime, prepare) if see_ahead else None
        bytes_of = preparation.tokens.bytes_of
        self._drafts = Drafts(lambda token_id: bytes_of(token_id).isdigit(), pass_cost)
        self._grammar: Grammar | None = None
        self._status: dict[str, str] = {}

    def warm_up(self, guided: bool = False) -> None:
        """Answer two tokens about a grey image: proves that the model runs and its memory suffices. guided: make the grammar
        too, which takes seconds with a large vocabulary and would take them from the first answer's deadline."""
        if guided:
            self._grammar = self._new_grammar()
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
            capacity = self._runtime.capacity
            answer = min(limits.max_new_tokens, capacity // 4)
            found = self._ahead.take(prompt, answer, lambda: control.interruption) if self._ahead else None
            prepared, seen_ahead = found or (self._preparation(prompt, capacity, answer), lambda: None)
            room = capacity - len(prepared.ids)
            limits = dataclasses.replace(limits, max_new_tokens=min(limits.max_new_tokens, room))
            constraint = self._constraint(prompt.schema) if prompt.schema is not None else None
            drafter = self._drafts.drafter(prompt.stream, prompt.text) if prompt.stream else None
            preprocess_s = time.perf_counter() - started
            run = self._decode(prepared, seen_ahead, answer, limits, control, drafter, constraint, text)
        if drafter and run.finish_reason not in ("cancelled", "deadline"):
            drafter.finished(run.token_ids)
        reused = self._reader.reused if run.forward_passes else 0
        self._reader.answered(run.token_ids)
        self._status = {
            "last answer": f"{len(run.token_ids)} tokens in {run.forward_passes} passes, {run.accepted} of "
            f"{run.drafted} drafted; {reused} of the prompt's {len(prepared.ids)} kept"
        }
        if self._ahead:
            self._status["seen ahead"] = self._ahead.status()
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
        if self._ahead is not None:  # before what it sees with
            self._ahead.close()
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = self._reader = self._ahead = None

    def _constraint(self, schema: dict[str, Any]) -> Constraint:
        if self._grammar is None:
            self._grammar = self._new_grammar()
        return self._grammar.constraint(schema)

    def _new_grammar(self) -> Grammar:
        from qwen3vl_ros.engine.decoding.grammar import Grammar  # here, because only guided answers need its library

        return Grammar(
            self._checkpoint.path / "tokenizer.json",
            self._preparation.tokens.stop_ids,
            self._checkpoint.config["text_config"]["vocab_size"],
            self.info.thinking,
        )

    def _decode(
        self,
        prepared: Prepared,
        seen_ahead: Callable[[], Any],
        answer: int,
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

        def step(token_ids: Sequence[int]) -> Scores:
            if self._ahead and self.upcoming:
                self._ahead.poll(self.upcoming, answer)
            return runtime.step(token_ids)

        runtime.between_layers = interrupt
        return decode(
            lambda draft: self._reader.read(prepared, draft, seen_ahead),
            step,
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


def cache_tokens(checkpoint: Checkpoint, config: Config, token_side: int) -> int:
    """How many tokens a cache that is allocated at once should hold. token_side: pixels of a visual token's side."""
    generation = config.generation
    wanted = generation.max_pixels // token_side**2 + _PROMPT_TOKENS + generation.max_new_tokens
    return min(checkpoint.max_positions, max(_CACHE_TOKENS, wanted))


def cpu_area(checkpoint: Checkpoint, config: Config) -> tuple[int, list[str]]:
    """Most pixels of an image for this model on a CPU, 0 for its own limit; and why, for the log."""
    if checkpoint.parameters < threads.SMALL_MODEL or config.generation.max_pixels:
        return 0, []
    return _CPU_AREA, [f"images of at most {_CPU_AREA} pixels (generation.max_pixels is 0: automatic on a CPU)"]
