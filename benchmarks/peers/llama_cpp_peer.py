"""llama.cpp with Q4_K_M weights through llama-cpp-python, in its own environment (scripts/peers.py llama.cpp).

Its decoder alone: the picture's tokens are read as text, so seeing is not part of its times, which favours it. The weights are
converted by llama.cpp's own script, named in LLAMA_CPP_CONVERT (convert_hf_to_gguf.py), and quantised by its library.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import common
import numpy as np


def converted(model: Path) -> Path:
    import llama_cpp

    out, plain = (model.with_name(f"{model.name}-{kind}.gguf") for kind in ("q4_k_m", "f16"))
    if out.is_file():
        return out
    script = os.environ.get("LLAMA_CPP_CONVERT", "")
    if not Path(script).is_file():
        raise SystemExit("LLAMA_CPP_CONVERT names no convert_hf_to_gguf.py; it is in llama.cpp's source")
    command = [sys.executable, script, str(model), "--outfile", str(plain), "--outtype", "f16"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(how)):
        raise SystemExit(f"llama.cpp could not quantise {plain}")
    plain.unlink()
    return out


def main() -> None:
    from llama_cpp import Llama

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

    common.report(options, answer, note="decoder alone: the picture is not seen")


if __name__ == "__main__":
    main()
