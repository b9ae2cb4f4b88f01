"""What every worker of benchmarks/cpu_peers.py does alike: its arguments, its clock, and its line of JSON. NumPy alone.

A worker is run as `python WORKER MODEL --tokens 100 --rounds 3 --threads 2 --vocabulary 1000`. It answers about a new picture
each time, once with one token and once with all; what the rest takes is decoding.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Callable

import numpy as np

TEXT_TOKENS = 60


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--frames", type=int, default=3, help="of a stream at rest, for each round; ours alone has drafts"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    return parser.parse_args()


def picture(options: argparse.Namespace, seed: int) -> np.ndarray:
    """HxWx3 uint8: blocks of colour with noise, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (options.height // 32 + 1, options.width // 32 + 1, 3), np.uint8)
    whole = np.kron(coarse, np.ones((32, 32, 1), np.uint8))[: options.height, : options.width]
    return np.clip(whole.astype(np.int16) + rng.integers(-3, 4, whole.shape), 0, 255).astype(np.uint8)


def prompt_ids(config: dict) -> tuple[list[int], list[int]]:
    """Token ids before and behind the image; below 256, which every tokenizer has."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, min(256, config["text_config"]["vocab_size"]), TEXT_TOKENS).tolist()
    return [*ids[:20], config["vision_start_token_id"]], [config["vision_end_token_id"], *ids[20:]]


def config_of(model: Path) -> dict:
    return json.loads((model / "config.json").read_text())


def report(options: argparse.Namespace, answer: Callable[[np.ndarray, int], int], **more) -> None:
    """answer: (picture, tokens) -> tokens written. Prints the line of JSON."""
    answer(picture(options, 0), 2)  # warms up
    first_s, whole_s, seed = [], [], 1
    for _ in range(options.rounds):
        for spent, count in ((first_s, 1), (whole_s, options.tokens)):
            shown, began = picture(options, seed), time.perf_counter()
            written = answer(shown, count)
            spent.append(time.perf_counter() - began)
            seed += 1
            if written != count:
                raise SystemExit(f"{written} tokens were written where {count} were asked for")
    say(options, first_s, whole_s, **more)


def say(options: argparse.Namespace, first_s: list[float], whole_s: list[float], **more) -> None:
    first, whole = float(np.median(first_s)), float(np.median(whole_s))
    decode_s = max(whole - first, 1e-9)
    print(
        json.dumps(
            {
                "first_token_s": round(first, 4),
                "decode_s": round(decode_s, 4),
                "tokens_per_s": round((options.tokens - 1) / decode_s, 3),
                "answer_s": round(whole, 4),
                "peak_gb": round(peak_gb(), 3),
                **more,
            }
        )
    )


def peak_gb() -> float:
    """Largest resident memory of this process; not getrusage's, which is the parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
