"""llama.cpp with Q4_K_M weights through llama-cpp-python, in its own environment (scripts/peers.py llama.cpp).

It sees by its library of pictures (mtmd), whose tower is in eight bits. Its buffers of repacked weights (AMX) are off: with them version
0.3.36, built from source, ends in a segmentation fault at the first token on a Xeon with AMX. The weights are converted by llama.cpp's own
script, which scripts/peers.py keeps beside the environment, and quantised by its library.
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


def converted(model: Path) -> tuple[Path, Path]:
    """The decoder and the tower, made once."""
    import llama_cpp

    out, plain, tower = (model.with_name(f"{model.name}-{kind}.gguf") for kind in ("q4_k_m", "f16", "tower-q8_0"))
    if not tower.is_file():
        _convert(model, tower, "q8_0", "--mmproj")
    if out.is_file():
        return out, tower
    if not plain.is_file():
        _convert(model, plain, "f16")
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(how)):
        raise SystemExit(f"llama.cpp could not quantise {plain}")
    plain.unlink()
    return out, tower


def _convert(model: Path, out: Path, kind: str, *more: str) -> None:
    kept = Path(sys.prefix) / "converter"
    command = [sys.executable, "-c", _CONVERT, str(kept), str(model), "--outfile", str(out), "--outtype", kind, *more]
    subprocess.run(command, check=True, stdout=sys.stderr)


class Eyes:
    """Reads pictures into the context of a Llama."""

    def __init__(self, llm, tower: Path, threads: int):
        from llama_cpp import llama_cpp, mtmd_cpp

        self._llm, self._lib, self._position = llm, mtmd_cpp, llama_cpp.llama_pos
        chosen = mtmd_cpp.mtmd_context_params_default()
        chosen.use_gpu, chosen.print_timings, chosen.n_threads = False, False, threads
        self._context = mtmd_cpp.mtmd_init_from_file(str(tower).encode(), llm.model, chosen)
        if not self._context or not mtmd_cpp.mtmd_support_vision(self._context):
            raise SystemExit(f"llama.cpp does not see by {tower}")

    def read(self, rgb: np.ndarray) -> int:
        """A picture HxWx3 after what the context holds; how many tokens it became."""
        lib, position, tokens = self._lib, self._position(self._llm.n_tokens), 0
        rgb = np.ascontiguousarray(rgb)
        data = rgb.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmaps = (lib.mtmd_bitmap_p_ctypes * 1)(lib.mtmd_bitmap_init(rgb.shape[1], rgb.shape[0], data))
        marker, chunks = lib.mtmd_default_marker(), lib.mtmd_input_chunks_init()
        text = lib.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
        if lib.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
            raise SystemExit("llama.cpp could not cut the picture into tokens")
        for k in range(lib.mtmd_input_chunks_size(chunks)):
            chunk = lib.mtmd_input_chunks_get(chunks, k)
            if lib.mtmd_input_chunk_get_type(chunk) != lib.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                continue  # the marks about it are among the prompt's tokens
            tokens += lib.mtmd_input_chunk_get_n_tokens(chunk)
            given = self._context, self._llm.ctx, chunk, position, 0, self._llm.n_batch, False, ctypes.byref(position)
            if lib.mtmd_helper_eval_chunk_single(*given):
                raise SystemExit("llama.cpp could not read the picture")
        lib.mtmd_input_chunks_free(chunks)
        lib.mtmd_bitmap_free(bitmaps[0])
        self._llm.n_tokens = position.value  # where the next token stands: a picture is as long as it is wide
        return tokens


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
    (path, tower), config = converted(options.model), common.config_of(options.model)
    llm = Llama(str(path), n_ctx=1024, n_threads=options.threads, n_threads_batch=options.threads, verbose=False)
    eyes, (before, behind) = Eyes(llm, tower, options.threads), common.prompt_ids(config)
    visual = options.width * options.height // 1024

    def answer(picture: np.ndarray, tokens: int) -> int:
        llm.reset()
        llm.eval(before)
        if (seen := eyes.read(picture)) != visual:
            raise SystemExit(f"llama.cpp made {seen} tokens of the picture, ours are {visual}")
        written = 0
        for _ in llm.generate(behind, temp=0.0, reset=False):
            written += 1
            if written == tokens:
                break
        return written

    common.report(options, answer, note="without AMX, which crashes")


if __name__ == "__main__":
    main()
