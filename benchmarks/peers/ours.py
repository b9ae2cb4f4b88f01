"""Ours: the exported int4 graphs on ONNX Runtime, each stage timed; then the same picture again, its last answer as a draft."""

from __future__ import annotations

import statistics
import time

import common
import numpy as np

from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.prepare import mrope_positions
from qwen3vl_ros.export.weight_only import decoder_bytes

DRAFT = 16  # tokens of one step


def main() -> None:
    options = common.arguments()
    config = common.config_of(options.model)
    sizes, rule = Sizes.read(config), PixelRule.read(options.model)
    runtime = OnnxRuntime(options.model, 1024, "cpu", options.threads)
    loaded_gb = common.peak_gb()
    before, behind = common.prompt_ids(config)
    stages: dict[str, list[float]] = {
        name: [] for name in ("see_s", "prefill_s", "decode_s", "static_s", "static_decode_s")
    }

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
        """With a draft of the whole answer: each step verifies DRAFT tokens."""
        began = time.perf_counter()
        said = [read(picture, False)]
        decoding = time.perf_counter()
        while len(said) < len(draft):
            tried = draft[len(said) - 1 : len(said) - 1 + DRAFT]
            best = runtime.step(tried).best()[0]
            kept = next((i for i, (a, b) in enumerate(zip(best, draft[len(said) :])) if a != b), len(best) - 1) + 1
            runtime.rollback(len(tried) - kept)
            said += best[:kept]
        stages["static_s"].append(time.perf_counter() - began)
        stages["static_decode_s"].append(time.perf_counter() - decoding)
        return said[: len(draft)]

    answer(common.picture(options, 0), 2)
    whole_s = []
    for seed in range(1, options.rounds + 1):
        shown, began = common.picture(options, seed), time.perf_counter()
        said = answer(shown, options.tokens, timed=True)
        whole_s.append(time.perf_counter() - began)
        if again(shown, said) != said:
            raise SystemExit("the drafted answer is not the plain one")
    median = {name: round(statistics.median(values), 4) for name, values in stages.items()}
    first_s = [median["see_s"] + median["prefill_s"]]
    read_bytes = decoder_bytes(options.model)
    common.say(options, first_s, whole_s, **median, load_peak_gb=round(loaded_gb, 3), bytes_per_token=read_bytes)
    runtime.close()


if __name__ == "__main__":
    main()
