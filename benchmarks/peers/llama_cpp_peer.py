"""llama.cpp with Q4_K_M weights through llama-cpp-python, in its own environment (scripts/peers.py llama.cpp).

Its decoder alone: the picture's tokens are read as text, so seeing is not part of its times, which favours it; llama-cpp-python has no
handler for Qwen3-VL's pictures. Its buffers of repacked weights (AMX) are off: with them version 0.3.36, built from source, ends in a
segmentation fault at the first token on a Xeon with AMX. The weights are converted by llama.cpp's own script, which scripts/peers.py keeps beside the
environment, and quantised by its library.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import common
import numpy as np

# The converter knows tokenizers by what they make of a text; that of random weights is too small to be known.
_CONVERT = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[:0] = [sys.argv[0], sys.argv[0] + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
runpy.run_path(sys.argv[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def converted(model: Path) -> Path:
    import llama_cpp

    out, plain = (model.with_name(f"{model.name}-{kind}.gguf") for kind in ("q4_k_m", "f16"))
    if out.is_file():
        return out
    if not plain.is_file():
        kept = Path(sys.prefix) / "converter"
        command = [sys.executable, "-c", _CONVERT, str(kept), str(model), "--outfile", str(plain), "--outtype", "f16"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(how)):
        raise SystemExit(f"llama.cpp could not quantise {plain}")
    plain.unlink()
    return out


def main() -> None:
    import llama_cpp
    from llama_cpp import Llama

    ordinary = llama_cpp.llama_model_default_params

    def without_repacking() -> llama_cpp.llama_model_params:
        chosen = ordinary()
        chosen.use_extra_bufts = False
        return chosen

    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    options = common.arguments()
    path, config = converted(options.model), common.config_of(options.model)
    llm = Llama(str(path), n_ctx=1024, n_threads=options.threads, n_threads_batch=options.threads, verbose=False)
    before, behind = common.prompt_ids(config)
    visual = options.width * options.height // 1024
    rng = np.random.default_rng(1)

    def answer(picture: np.ndarray, tokens: int) -> int:
        llm.reset()
        ids = [*before, *rng.integers(3, 256, visual).tolist(), *behind]
        written = 0
        for _ in llm.generate(ids, temp=0.0, reset=True):
            written += 1
            if written == tokens:
                break
        return written

    common.report(options, answer, note="decoder alone: the picture is not seen; without AMX, which crashes")


if __name__ == "__main__":
    main()
