"""Ours: graphs exported in few bits on ONNX Runtime, each stage timed; then the same picture again, its last answer as a draft.

The memory's bandwidth is measured before and after decoding in the same process, because other work on the machine takes from it.
"""

from __future__ import annotations

import statistics
import threading
import time

import common
import numpy as np

from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.prepare import mrope_positions
from qwen3vl_ros.export.weight_only import decoder_bytes


def bandwidth_gb_s(threads: int) -> float:
    """Bytes that `threads` read of memory a second, best of five."""
    parts = [np.ones(1 << 24, np.float64) for _ in range(threads)]
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=part.sum) for part in parts]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - began) / 1e9)
    return best


def main() -> None:
    options = common.arguments()
    config = common.config_of(options.model)
    bandwidths = [bandwidth_gb_s(options.threads)]  # first: its arrays are gone when the model comes
    sizes, rule = Sizes.read(config), PixelRule.read(options.model)
    runtime = OnnxRuntime(options.model, 1024, "cpu", options.threads)
    loaded_gb = common.peak_gb()
    runtime.large_pages.join()  # what a robot waits for is the first answer, which may come earlier and slower
    before, behind = common.prompt_ids(config)
    stages: dict[str, list[float]] = {
        name: [] for name in ("see_s", "prefill_s", "decode_s", "static_s", "static_decode_s")
    }
    tried = kept = 0

    def read(picture: np.ndarray, timed: bool) -> int:
        """Sees and reads the prompt; the first token."""
        runtime.rollback(runtime.length)
        began = time.perf_counter()
        pixels, grid = rule.patches([picture])
        features = runtime.encode(pixels, grid)
        seen = time.perf_counter()
        ids = np.array([*before, *[sizes.image_id] * (int(grid.prod()) // rule.merge**2), *behind])
        (token,), _ = runtime.prefill(ids, features, mrope_positions(ids == sizes.image_id, grid, rule.merge)).best()
        if timed:
            stages["see_s"].append(seen - began)
            stages["prefill_s"].append(time.perf_counter() - seen)
        return token

    def answer(picture: np.ndarray, tokens: int, timed: bool = False) -> list[int]:
        said = [read(picture, timed)]
        began = time.perf_counter()
        while len(said) < tokens:
            said.append(runtime.step([said[-1]]).best()[0][0])
        if timed:
            stages["decode_s"].append(time.perf_counter() - began)
        return said

    def again(picture: np.ndarray, draft: list[int]) -> list[int]:
        """With a draft of the whole answer, or of its rest where a token comes out otherwise."""
        nonlocal tried, kept
        began = time.perf_counter()
        said = [read(picture, False)]
        decoding = time.perf_counter()
        while len(said) < len(draft):
            drafted = draft[len(said) : len(said) + runtime.longest_step - 1]
            best = runtime.step([said[-1], *drafted]).best()[0]
            right = next((i for i, (a, b) in enumerate(zip(best, drafted)) if a != b), len(drafted))
            runtime.rollback(len(drafted) - right)
            said += best[: right + 1]
            tried, kept = tried + len(drafted), kept + right
        stages["static_s"].append(time.perf_counter() - began)
        stages["static_decode_s"].append(time.perf_counter() - decoding)
        return said[: len(draft)]

    answer(common.picture(options, 0), 2)
    whole_s, same = [], 0
    for seed in range(1, options.rounds + 1):
        shown, began = common.picture(options, seed), time.perf_counter()
        said = answer(shown, options.tokens, timed=True)
        whole_s.append(time.perf_counter() - began)
        for _ in range(options.frames):
            same += again(shown, said) == said
    bandwidths.append(bandwidth_gb_s(options.threads))
    median = {name: round(statistics.median(values), 4) for name, values in stages.items()}
    first_s = [median["see_s"] + median["prefill_s"]]
    read_bytes = decoder_bytes(options.model)
    frames = options.rounds * options.frames
    more = {
        "load_peak_gb": round(loaded_gb, 3),
        "large_pages_gb": round(runtime.large_pages.made / 1e9, 3),
        "bytes_per_token": read_bytes,
        "bandwidth_gb_s": round(max(bandwidths), 2),
    }
    more |= {
        "drafts_accepted": round(kept / max(tried, 1), 4),
        "same_answers": round(same / frames, 4),
        "frames": frames,
    }
    common.say(options, first_s, whole_s, **median, **more)
    runtime.close()


if __name__ == "__main__":
    main()
