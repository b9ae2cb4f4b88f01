"""From an image to the whole answer on this CPU: ours on ONNX Runtime beside `generate` of transformers.

The embedded model, a 640x480 picture, greedy, float32, a new picture each time, no drafts: what a first answer costs.
The peer is `Qwen3VLForConditionalGeneration.generate` with its key-value cache, in the same run, picture by picture in
turn, with one torch thread and with two; its better median counts. Both prepare pictures and prompt with our code, on
one NumPy thread. Every answer's token ids must be the same, or this fails. Then the memory of each in a process of its
own. The last line is JSON.

    make bench BENCH=engine_cpu [ARGS="--pictures 20"]
    PEERS="vllm openvino llama.cpp" make bench BENCH=engine_cpu ARGS="--size 2B --peers llama.cpp,openvino,vllm,transformers"

The second form measures a published size in few bits beside the peers that are installed (cpu_peers.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine import Limits, Prompt, embedded_model_dir, load_engine
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.questions import Detect

SIZE = 640, 480
PROMPT = Detect(("cube", "ball", "cylinder", "mug", "bowl")).prompt()
THREADS = (1, 2)
_REST_S = 0.3  # threads of the one measured before have stopped spinning by then


@dataclass
class Timer:
    """Wall and processor milliseconds of whole answers; the processor's are of all threads."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def __call__(self, answer: Callable, picture: np.ndarray):
        time.sleep(_REST_S)
        wall, cpu = time.perf_counter(), time.process_time()
        said = answer(picture)
        self.cpu_ms.append(1e3 * (time.process_time() - cpu))
        self.wall_ms.append(1e3 * (time.perf_counter() - wall))
        return said

    def of(self, share: float) -> float:
        """A percentile of the wall times."""
        return float(np.percentile(self.wall_ms, share))

    @property
    def cpu(self) -> float:
        return float(np.median(self.cpu_ms))


def pictures(count: int) -> tuple[list[np.ndarray], str]:
    """Scenes of the embedded camera; coloured boxes on a machine without MuJoCo."""
    try:
        from qwen3vl_ros.sim.camera import SimCamera
        from qwen3vl_ros.sim.scenes import sample_scene
    except ImportError:
        rng, made = np.random.default_rng(0), []
        for _ in range(count):
            picture = np.full((*SIZE[::-1], 3), 160, np.uint8)
            for x, y, w, h in rng.integers((0, 0, 40, 40), (560, 400, 120, 120), (5, 4)):
                picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
            made.append(picture)
        return made, "coloured boxes"
    with SimCamera(*SIZE, quality="fast") as camera:
        return [camera.render(sample_scene(seed)).rgb for seed in range(700, 700 + count)], "embedded camera"


def our_answer() -> Callable:
    """picture -> Generation."""
    engine = load_engine(Config(engine="onnxruntime", device="cpu"))
    print(f"ours: {engine.info.why}", file=sys.stderr)
    limits = Limits.of(Config().generation)
    return lambda picture: engine.generate(Prompt(PROMPT, [picture]), limits)


def peer_answer() -> Callable:
    """picture -> token ids of the answer, without the end token."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    place = embedded_model_dir()
    prepare = Preparation(place)
    model = Qwen3VLForConditionalGeneration.from_pretrained(place, dtype=torch.float32).eval()
    longest = Config().generation.max_new_tokens

    @torch.inference_mode()
    def answer(picture: np.ndarray) -> list[int]:
        x = prepare(Prompt(PROMPT, [picture]))
        ids = torch.from_numpy(x.ids)[None]
        said = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(x.pixels),
            image_grid_thw=torch.from_numpy(x.grid),
            mm_token_type_ids=(ids == prepare.tokens.image_id).int(),
            do_sample=False,
            use_cache=True,
            max_new_tokens=longest,
        )[0, ids.shape[1] :].tolist()
        stop = [i for i, token in enumerate(said) if token in prepare.tokens.stop_ids]
        return said[: stop[0]] if stop else said

    return answer


def require_same(ours, peer: list[int], picture: int) -> None:
    """Ours leaves out white space around the answer, so its tokens lie within the peer's."""
    tokens = list(ours.token_ids)
    inside = any(peer[i : i + len(tokens)] == tokens for i in range(len(peer) - len(tokens) + 1))
    if ours.generated_tokens != len(peer) or not inside:
        raise SystemExit(f"picture {picture}: the answers differ\nours {tokens}\npeer {peer}")


def measure(shown: list[np.ndarray]) -> tuple[Timer, dict[int, Timer], list]:
    """Our times, the peer's by number of threads, and our answers."""
    import torch

    ours, peer = our_answer(), peer_answer()
    own, peers, answers = Timer(), {n: Timer() for n in THREADS}, []
    for number, picture in enumerate(shown):
        said = own(ours, picture)
        for threads, timer in peers.items():
            torch.set_num_threads(threads)
            require_same(said, timer(peer, picture), number)
        answers.append(said)
    for timer in (own, *peers.values()):  # the first answer warms up
        del timer.wall_ms[0], timer.cpu_ms[0]
    return own, peers, answers[1:]


def memory_mb(what: str) -> float:
    """Peak resident memory of a process that loads the model and answers three times."""
    done = subprocess.run([sys.executable, __file__, "--memory-of", what], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def print_own_memory(what: str) -> None:
    shown = [np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8) for seed in range(3)]
    if what != "nothing":
        answer = {"ours": our_answer, "peer": peer_answer}[what]()
        for picture in shown:
            answer(picture)
    # Not getrusage: its peak is that of the process before it became this one, too.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def hardware() -> str:
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    model = model or platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--memory-of", choices=("ours", "peer", "nothing"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--size", choices=("toy", "2B", "4B"), help="random weights of a published size, ours in few bits"
    )
    parser.add_argument("--ours", default="int8,int4", help="beside --size: precisions of ours, the ratios' first")
    parser.add_argument("--frames", type=int, default=3, help="beside --size: of a stream at rest, for each round")
    parser.add_argument("--no-error", action="store_true", help="beside --size: no errors of two layers")
    parser.add_argument(
        "--peers", default="transformers", help="beside --size: llama.cpp, openvino, vllm, transformers"
    )
    parser.add_argument("--rounds", type=int, default=3, help="beside --size: answers of each program")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="beside --size: of each program")
    options = parser.parse_args()
    if options.memory_of:
        print_own_memory(options.memory_of)
        return
    if options.size:
        from cpu_peers import WORKERS, run

        from qwen3vl_ros.export.scheme import BITS

        names = options.peers.split(",")
        if unknown := set(names) - set(WORKERS):
            parser.error(f"--peers has no {', '.join(sorted(unknown))}; there are: {', '.join(WORKERS)}")
        precisions = options.ours.split(",")
        if unknown := set(precisions) - set(BITS):
            parser.error(f"--ours has no {', '.join(sorted(unknown))}; there are: {', '.join(BITS)}")
        raise SystemExit(
            run(
                options.size,
                names,
                options.rounds,
                options.threads,
                hardware(),
                precisions,
                options.frames,
                not options.no_error,
            )
        )
    import onnxruntime
    import torch
    import transformers

    machine = hardware()
    shown, source = pictures(options.pictures + 1)
    own, peers, answers = measure(shown)
    tokens = [said.generated_tokens for said in answers]
    stages = [
        1e3 * np.median([getattr(said, name) for said in answers]) for name in ("preprocess_s", "prefill_s", "decode_s")
    ]
    threads, peer = min(peers.items(), key=lambda item: item[1].of(50))
    least = min(peers.values(), key=lambda timer: timer.cpu)
    # Picture by picture, because answers differ in length and a machine in load.
    ratio = float(np.median(np.divide(peer.wall_ms, own.wall_ms)))
    cpu_ratio = float(np.median(np.divide(least.cpu_ms, own.cpu_ms)))
    print(
        f"hardware: {machine}; onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )
    print(
        f"input: {len(tokens)} pictures ({source}), 640x480, {np.mean(tokens):.0f} tokens an answer; token ids equal\n"
    )
    print(f"{'image to answer, milliseconds':36}{'best':>9}{'p50':>9}{'p95':>9}{'cpu p50':>9}")
    rows = [
        ("ours, onnxruntime", own),
        *((f"transformers generate, {n} thread{'s' * (n > 1)}", t) for n, t in peers.items()),
    ]
    for name, timer in rows:
        print(f"{name:36}{timer.of(0):9.1f}{timer.of(50):9.1f}{timer.of(95):9.1f}{timer.cpu:9.1f}")
    print("of ours, p50: pixels and words {:.1f}, seeing and reading {:.1f}, saying {:.1f}".format(*stages))
    print(
        f"\nours is {ratio:.1f}x faster (median of the pictures' ratios; of the medians "
        f"{peer.of(50) / own.of(50):.1f}x) and takes {cpu_ratio:.1f}x less processor time\n"
    )
    memory = {what: memory_mb(what) for what in ("ours", "peer", "nothing")}
    print(
        f"peak memory of a process, MB: ours {memory['ours']:.0f}, transformers {memory['peer']:.0f}, "
        f"imports of this script alone {memory['nothing']:.0f}"
    )
    print(
        json.dumps(
            {
                "ratio_vs_transformers": round(ratio, 2),
                "cpu_ratio_vs_transformers": round(cpu_ratio, 2),
                "ours_ms": round(own.of(50), 2),
                "ours_ms_best": round(own.of(0), 2),
                "ours_ms_p95": round(own.of(95), 2),
                "ours_cpu_ms": round(own.cpu, 2),
                "transformers_ms": round(peer.of(50), 2),
                "transformers_ms_best": round(peer.of(0), 2),
                "transformers_ms_p95": round(peer.of(95), 2),
                "transformers_cpu_ms": round(least.cpu, 2),
                "transformers_threads": threads,
                "tokens_per_answer": round(float(np.mean(tokens)), 1),
                "pictures": len(tokens),
                "source": source,
                "ours_peak_mb": round(memory["ours"]),
                "transformers_peak_mb": round(memory["peer"]),
                "imports_peak_mb": round(memory["nothing"]),
                "hardware": machine,
            }
        )
    )


if __name__ == "__main__":
    main()
