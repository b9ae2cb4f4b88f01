"""vLLM for CPUs in bfloat16, in its own environment (scripts/peers.py vllm)."""

from __future__ import annotations

import os

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

import common  # noqa: E402
import numpy as np  # noqa: E402


def main() -> None:
    options = common.arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from PIL import Image
    from vllm import LLM, SamplingParams

    config = common.config_of(options.model)
    llm = LLM(
        str(options.model),
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    before, behind = common.prompt_ids(config)

    def answer(picture: np.ndarray, tokens: int) -> int:
        asked = {
            "prompt_token_ids": [*before, config["image_token_id"], *behind],
            "multi_modal_data": {"image": Image.fromarray(picture)},
        }
        how = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        return len(llm.generate(asked, how, use_tqdm=False)[0].outputs[0].token_ids)

    common.report(options, answer)


if __name__ == "__main__":
    main()
