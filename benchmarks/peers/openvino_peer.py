"""OpenVINO GenAI with int4 weights, in its own environment (scripts/peers.py openvino): exported once, beside the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import common
import numpy as np


def exported(model: Path) -> Path:
    out = model.with_name(f"{model.name}-openvino-int4")
    if not (out / "openvino_language_model.xml").is_file():
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "-m", str(model)]
        command += ["--task", "image-text-to-text", "--weight-format", "int4", str(out)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return out


def main() -> None:
    import openvino
    import openvino_genai

    options = common.arguments()
    place = exported(options.model)
    pipeline = openvino_genai.VLMPipeline(str(place), "CPU", INFERENCE_NUM_THREADS=options.threads)
    text = "a " * (common.TEXT_TOKENS // 2)

    def answer(picture: np.ndarray, tokens: int) -> int:
        how = openvino_genai.GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True)
        said = pipeline.generate(text, images=[openvino.Tensor(picture[None])], generation_config=how)
        return said.perf_metrics.get_num_generated_tokens()

    common.report(options, answer)


if __name__ == "__main__":
    main()
