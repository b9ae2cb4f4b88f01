"""What do guided answers cost, and what do they save? The embedded model on its camera, with a schema and without.

The peer is the same model without a schema, in the same run, answer by answer in turn. Greedy answers show what a
schema costs where nothing goes wrong; sampled ones what it prevents where something does. Then the cost of the grammar
alone, token by token, for the embedded vocabulary and for one of Qwen's size: random letters with the usual pieces of
JSON, or the tokenizer.json of --tokenizer. The last line is JSON.

    make bench BENCH=guided [ARGS="--scenes 40 --tokenizer /models/Qwen3-VL-2B-Instruct/tokenizer.json"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine import Limits, Prompt, load_engine
from qwen3vl_ros.engine.base import Engine
from qwen3vl_ros.engine.checkpoint import embedded_model_dir
from qwen3vl_ros.engine.decoding.grammar import Grammar
from qwen3vl_ros.engine.decoding.loop import Sampling
from qwen3vl_ros.questions import Detect, Point, Question
from qwen3vl_ros.types import Generation, MalformedAnswer, View

SIZE = 640, 480
LIMITS = Limits.of(Config().generation)
QUESTIONS = (
    Detect(("cube", "ball", "cylinder", "mug", "bowl")),
    Detect(("red cube", "blue mug", "green ball")),
    Detect(("the red cube",)),
    Point(("ball",)),
)
QWEN_TOKENS, QWEN_SLOTS = 151643, 151936
ENDS = ("<|im_end|>", "<|endoftext|>")
NO_AREA = "box without area inside the image"


@dataclass
class Tally:
    """What answers of one kind cost, and what was wrong with them."""

    passes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    wrong: Counter = field(default_factory=Counter)

    def add(self, said: Generation, cpu_ms: float, question: Question) -> None:
        self.passes.append(said.forward_passes)
        self.tokens.append(said.generated_tokens)
        self.answer_ms.append(1e3 * (said.prefill_s + said.decode_s))
        self.cpu_ms.append(cpu_ms)
        self.wrong.update(faults(said, question))

    def row(self) -> dict:
        return {
            "answers": len(self.passes),
            "tokens": sum(self.tokens),
            "passes": sum(self.passes),
            "answer_ms_p50": round(float(np.median(self.answer_ms)), 2),
            "answer_ms_p95": round(float(np.percentile(self.answer_ms, 95)), 2),
            "cpu_ms_p50": round(float(np.median(self.cpu_ms)), 2),
            **{name: self.wrong[name] for name in ("malformed", "not_json", "no_area", "cut")},
        }


def faults(said: Generation, question: Question) -> set[str]:
    """malformed: an object or the whole answer could not be read, for another reason than a box without area.
    not_json: a strict parser refuses it. cut: length, repeat, deadline."""
    found = {"cut"} if said.finish_reason != "stop" else set()
    text = said.text.removeprefix("```json\n").removesuffix("\n```")
    try:
        objects = json.loads(text)
    except ValueError:
        objects = []
        found.add("not_json")
    try:
        answer = question.read(said, (View(SIZE),))
    except MalformedAnswer as error:
        flat = objects and all(isinstance(o, dict) and is_flat(o.get("bbox_2d", ())) for o in objects)
        return found | {"no_area" if flat and NO_AREA in str(error) else "malformed"}
    flat = sum(int(note.split(" x ")[0]) for note in answer.notes if note.endswith(NO_AREA))
    found |= {"no_area"} if flat else set()
    return found | ({"malformed"} if answer.dropped > flat else set())


def is_flat(box) -> bool:
    return len(box) == 4 and (box[0] == box[2] or box[1] == box[3])


def measure_answers(engine: Engine, pictures: list[np.ndarray], sampling: Sampling | None) -> tuple[Tally, Tally, int]:
    """Without, with a schema, and how many answers are the same token for token."""
    plain, guided, same = Tally(), Tally(), 0
    for k, rgb in enumerate(pictures):
        for question in QUESTIONS:
            prompt, schema = question.prompt(), question.schema()
            engine.sampling = None
            engine.generate(
                Prompt(prompt, [rgb]), LIMITS
            )  # the picture and the prompt are read: what follows is answering
            if sampling:
                engine.sampling = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, seed=k)
            said = []
            for tally, rule in ((plain, None), (guided, schema)):
                cpu = time.thread_time()
                said.append(engine.generate(Prompt(prompt, [rgb], schema=rule), LIMITS))
                tally.add(said[-1], 1e3 * (time.thread_time() - cpu), question)
            same += said[0].token_ids == said[1].token_ids
    return plain, guided, same


def qwen_sized(path: Path) -> None:
    """A byte-level tokenizer with as many tokens as Qwen's: the usual pieces of JSON, then random letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {c: i for i, c in enumerate(letters)}, []

    def merge(a: str, b: str) -> None:
        if a in vocabulary and b in vocabulary and a + b not in vocabulary:
            vocabulary[a + b] = len(vocabulary)
            merges.append((a, b))

    pieces = '``` json [Ċ {" bbox label ": Ġ[ Ġ" ], "} "}, "},Ċ "}Ċ ]Ċ'
    for piece in pieces.split():
        for end in range(2, len(piece) + 1):
            merge(piece[: end - 1], piece[end - 1])
    rng = np.random.default_rng(0)
    plain = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["Ġ"]
    words = list(plain)
    while len(vocabulary) < QWEN_TOKENS:
        left, right = words[rng.integers(len(words))], plain[rng.integers(len(plain) - 1)]
        if len(left) < 12 and left + right not in vocabulary:
            merge(left, right)
            words.append(left + right)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ENDS])
    tokenizer.save(str(path))


def measure_grammar(path: Path, slots: int, rounds: int) -> dict:
    """An answer of eight objects pushed through the grammar: what a token costs, how many of them are no choice.
    Processor time, which a busy machine does not stretch."""
    tokenizer = Tokenizer.from_file(str(path))
    started = time.thread_time()
    grammar = Grammar(path, [tokenizer.token_to_id(t) for t in ENDS], slots)
    build_ms = 1e3 * (time.thread_time() - started)
    rows = [f'{{"bbox_2d": [{37 * k}, 7, 188, 1000], "label": "red mug"}}' for k in range(1, 9)]
    ids = tokenizer.encode("```json\n[\n\t" + ",\n\t".join(rows) + "\n]\n```", add_special_tokens=False).ids
    schema = Detect(("cube", "red mug")).schema()
    started = time.thread_time()
    grammar.constraint(schema)
    compile_ms = 1e3 * (time.thread_time() - started)
    mask_us, token_us, choices = [], [], 0
    for _ in range(rounds):
        constraint, position, choices = grammar.constraint(schema), 0, 0
        while position < len(ids):
            begin = time.thread_time()
            forced = constraint.forced()
            asked = time.thread_time()
            if not forced:
                constraint.allowed()
                choices += 1
                mask_us.append(1e6 * (time.thread_time() - asked))
            taken = ids[position : position + max(1, len(forced))]
            if forced and forced != taken:
                raise SystemExit(f"the grammar forces {forced}, the tokenizer writes {taken}: no figure is valid")
            for token in taken:
                constraint.accept([token])
            token_us += [1e6 * (time.thread_time() - begin) / len(taken)] * len(taken)
            position += len(taken)
    return {
        "slots": slots,
        "build_ms": round(build_ms, 1),
        "compile_ms": round(compile_ms, 2),
        "mask_us_p50": round(float(np.median(mask_us)), 1),
        "mask_us_p95": round(float(np.percentile(mask_us, 95)), 1),
        "token_us_p50": round(float(np.median(token_us)), 1),
        "token_us_mean": round(float(np.mean(token_us)), 1),
        "tokens": len(ids),
        "passes": choices,
        "passes_ratio": round(len(ids) / choices, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--temperatures", type=float, nargs="*", default=(1.0, 1.5))
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json of Qwen3-VL")
    options = parser.parse_args()
    from qwen3vl_ros.sim.camera import SimCamera
    from qwen3vl_ros.sim.scenes import sample_scene

    engine = load_engine()
    with SimCamera(*SIZE, quality="fast") as camera:
        pictures = [camera.render(sample_scene(seed)).rgb for seed in range(970, 970 + options.scenes)]
    hardware = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} logical cores, load average "
        f"{os.getloadavg()[0]:.1f}; {engine.info.runtime} on {engine.info.device}, {engine.info.dtype}"
    )
    print(f"hardware: {hardware}")
    print(f"input: {len(pictures)} scenes of the embedded camera, {len(QUESTIONS)} requests each\n")
    for question in QUESTIONS:  # schemas are compiled once
        engine.generate(Prompt(question.prompt(), [pictures[0]], schema=question.schema()), LIMITS)
    result: dict = {"hardware": hardware, "scenes": len(pictures)}
    columns = ("answers", "tokens", "passes", "answer_ms_p50", "answer_ms_p95", "cpu_ms_p50")
    columns += ("malformed", "not_json", "no_area", "cut")
    print(f"{'':24}" + "".join(f"{c.replace('_p', ' p').replace('_', ' '):>15}" for c in columns))
    for temperature in (0.0, *options.temperatures):
        sampling = Sampling(temperature, 1.0, 0) if temperature else None
        plain, guided, same = measure_answers(engine, pictures, sampling)
        name = f"temperature {temperature:g}" if temperature else "greedy"
        rows = {"plain": plain.row(), "guided": guided.row()}
        for kind, row in rows.items():
            print(f"{name + ', ' + kind:24}" + "".join(f"{row[c]:15}" for c in columns))
        per_pass = [r["tokens"] / r["passes"] for r in rows.values()]
        print(
            f"{'':24}tokens a pass {per_pass[0]:.2f} -> {per_pass[1]:.2f}"
            + ("" if sampling else f"; {same} of {len(plain.passes)} answers the same token for token")
        )
        result[name.replace(" ", "_")] = rows | {
            "same": same,
            "tokens_per_pass_ratio": round(per_pass[1] / per_pass[0], 2),
        }
    print(
        "answer ms: wall time of the passes, the prompt's but for its last token left out; cpu ms: the processor "
        "time of the whole call"
    )
    engine.close()
    with tempfile.TemporaryDirectory() as folder:
        large = options.tokenizer or Path(folder) / "tokenizer.json"
        if not options.tokenizer:
            qwen_sized(large)
        slots = json.loads((embedded_model_dir() / "config.json").read_text())["text_config"]["vocab_size"]
        sizes = {
            "embedded": measure_grammar(embedded_model_dir() / "tokenizer.json", slots, 20),
            "qwen": measure_grammar(large, QWEN_SLOTS, 20),
        }
    print(f"\n{'the grammar alone':24}" + "".join(f"{c.replace('_', ' '):>15}" for c in sizes["qwen"]))
    for name, row in sizes.items():
        print(f"{name:24}" + "".join(f"{v:15}" for v in row.values()))
    print("passes: tokens left to the network in an answer of eight objects; the others leave no choice\n")
    kind = "given" if options.tokenizer else "random letters"
    print(json.dumps(result | {"grammar": sizes, "qwen_tokenizer": kind}))


if __name__ == "__main__":
    main()
