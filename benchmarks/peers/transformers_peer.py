"""`generate` of transformers in bfloat16, the environment of the benchmark itself."""

from __future__ import annotations

import common
import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from qwen3vl_ros.engine.prompt.pixels import PixelRule


def main() -> None:
    options = common.arguments()
    torch.set_num_threads(options.threads)
    config, rule = common.config_of(options.model), PixelRule.read(options.model)
    model = Qwen3VLForConditionalGeneration.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    before, behind = common.prompt_ids(config)

    @torch.inference_mode()
    def answer(picture: np.ndarray, tokens: int) -> int:
        pixels, grid = rule.patches([picture])
        visual = [config["image_token_id"]] * (int(grid.prod()) // rule.merge**2)
        ids = torch.tensor([[*before, *visual, *behind]])
        said = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(pixels),
            image_grid_thw=torch.from_numpy(grid),
            mm_token_type_ids=(ids == config["image_token_id"]).int(),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
        return said.shape[1] - ids.shape[1]

    common.report(options, answer)


if __name__ == "__main__":
    main()
