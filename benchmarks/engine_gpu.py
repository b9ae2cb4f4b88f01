"""How fast is one answer about one image, and how near to what the memory allows? Beside `transformers.generate`.

Random weights at the published sizes in bfloat16, a 640x480 image, a prompt of 60 text tokens, 100 tokens out. Ours
on torch (a captured CUDA graph for each step length; `torch_fused`: steps of one token by fused kernels, where Triton is) and,
with --bundle, on TensorRT; the peers are `generate` as it
is (eager) and with its static cache compiled. All of them answer in turn, in rounds, on the same machine. Decoding is
compared with the bandwidth of a copy in GPU memory, measured in the same run. Without a GPU it runs at toy size on
the CPU (and a 128x96 image) and says so: its figures then say that it runs, nothing more. Then a stream of pictures, each seen after
the answer about the one before and, in turn, while that answer is being said (`seen_ahead`: time without over time with, for answers of
100 tokens and of 20, and whether all tokens were the same). The last line is JSON.

    make bench BENCH=engine_gpu [ARGS="--sizes 2B,4B,8B --rounds 5 --bundle 2B=DIR"]
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import numpy as np
import torch

from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.prompt.prepare import mrope_positions
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.export.random_weights import SIZES, config_of

GRIDS = {"toy": np.array([[1, 6, 8]])}  # 128x96
GRID = np.array([[1, 30, 40]])  # a 640x480 image in patches
TEXT_TOKENS = 60
GIB = 1 << 30


class Task:
    """One prompt: ids, their positions, and the image's patches; random, the same for everybody."""

    def __init__(self, sizes: Sizes, grid: np.ndarray, answer_tokens: int):
        rng, self.grid = np.random.default_rng(0), grid
        seen = int(np.prod(grid)) // sizes.vision.merge**2
        words = rng.integers(0, min(1000, sizes.text.vocabulary), TEXT_TOKENS)
        self.ids = np.concatenate((words[:20], np.full(seen, sizes.image_id), words[20:]))
        self.positions = mrope_positions(self.ids == sizes.image_id, grid, sizes.vision.merge)
        self.pixels = rng.standard_normal((int(np.prod(grid)), sizes.vision.patch_values), np.float32)
        self.answer_tokens = answer_tokens


# -- who answers -----------------------------------------------------------------------------------------------------


class Ours:
    """A runtime of ours: each stage timed."""

    def __init__(self, runtime: Any, wait: Callable[[], None]):
        self.runtime, self._wait = runtime, wait

    def answer(self, task: Task) -> dict[str, float]:
        runtime = self.runtime
        runtime.rollback(runtime.length)
        clock = Clock(self._wait)
        features = runtime.encode(task.pixels, task.grid)
        vision = clock.lap_ms()
        token = runtime.prefill(task.ids.tolist(), features, task.positions).best()[0]
        prefill = clock.lap_ms()
        for _ in range(task.answer_tokens - 1):
            token = runtime.step(token).best()[0]
        return {
            "vision_ms": vision,
            "prefill_ms": prefill,
            "decode_ms": (decode := clock.lap_ms()),
            "answer_ms": vision + prefill + decode,
        }

    def close(self) -> None:
        self.runtime.close()


def stream(
    runtime: TorchRuntime, task: Task, tokens: int, pictures: int, ahead: ThreadPoolExecutor | None
) -> list[list[int]]:
    """The answers about so many pictures; with `ahead`, each picture but the first is seen there while the one before is spoken about."""
    said, shown = [], [task.pixels, -task.pixels]
    look = None
    for number in range(pictures):
        features = look.result()() if look else runtime.encode(shown[number % 2], task.grid)
        runtime.rollback(runtime.length)
        answer = runtime.prefill(task.ids.tolist(), features, task.positions).best()[0]
        if ahead and number + 1 < pictures:
            look = ahead.submit(runtime.encode_ahead, shown[(number + 1) % 2], task.grid, lambda: None)
        while len(answer) < tokens:
            answer += runtime.step(answer[-1:]).best()[0]
        said.append(answer)
    return said


def seen_ahead(
    runtime: TorchRuntime, task: Task, wait: Callable[[], None], rounds: int, pictures: int = 8
) -> dict[str, Any]:
    """What it gains to see the next picture meanwhile: ratios of the times of one stream, both ways by turns."""
    found: dict[str, Any] = {"same_tokens": True}
    with ThreadPoolExecutor(1) as thread:
        for tokens in sorted({task.answer_tokens, min(20, task.answer_tokens)}):
            times = {None: 0.0, thread: 0.0}
            stream(runtime, task, tokens, 2, thread)  # warm
            for round_ in range(rounds):
                answers = []
                for way in list(times)[:: 1 if round_ % 2 else -1]:
                    clock = Clock(wait)
                    answers.append(stream(runtime, task, tokens, pictures, way))
                    times[way] += clock.lap_ms()
                found["same_tokens"] &= answers[0] == answers[1]
            found[f"ratio_{tokens}"] = round(times[None] / times[thread], 3)
            found[f"answer_ms_{tokens}"] = [round(t / rounds / pictures, 2) for t in times.values()]
    return found


class Generate:
    """`transformers.generate`, greedy. It tells no stages apart: decoding is what an answer takes more than one
    token. The difference of two times may drown in the machine's noise; `summary` gives no speed then."""

    def __init__(self, model: Any, wait: Callable[[], None], **options: Any):
        self._model, self._wait, self._options = model, wait, options

    def answer(self, task: Task) -> dict[str, float]:
        one, whole = self._time_ms(task, 1), self._time_ms(task, task.answer_tokens)
        return {"first_token_ms": one, "decode_ms": whole - one, "answer_ms": whole}

    @torch.inference_mode()
    def _time_ms(self, task: Task, tokens: int) -> float:
        device, dtype = self._model.device, self._model.dtype
        clock = Clock(self._wait)
        ids = torch.from_numpy(task.ids[None]).to(device)
        found = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            mm_token_type_ids=(ids == self._model.config.image_token_id).int(),
            image_grid_thw=torch.from_numpy(task.grid).to(device),
            pixel_values=torch.from_numpy(task.pixels).to(device, dtype),
            **self._options,
        )
        found.cpu()
        if found.shape[1] != ids.shape[1] + tokens:
            raise RuntimeError(f"generate gave {found.shape[1] - ids.shape[1]} tokens where {tokens} were asked for")
        return clock.lap_ms()

    def close(self) -> None:
        self._model = None


class Clock:
    def __init__(self, wait: Callable[[], None]):
        self._wait = wait
        wait()
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        self._wait()
        last, self._last = self._last, time.perf_counter()
        return (self._last - last) * 1e3


# -- what is measured ------------------------------------------------------------------------------------------------


class Machine:
    """The device, and torch's own words for its time and memory."""

    def __init__(self):
        self.gpu = torch.cuda.is_available()
        self.device = "cuda" if self.gpu else "cpu"
        self.dtype = torch.bfloat16 if self.gpu else torch.float32
        self.name = (
            torch.cuda.get_device_name()
            if self.gpu
            else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
        )

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def free(self) -> None:
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.gpu else None

    def copy_gb_s(self) -> float:
        """Bytes read and written in a second by the fastest of many copies of 2 GiB in GPU memory (64 MiB on a CPU).

        The fastest, because it is a bound that others' figures are shares of: an idle GPU's first copies, at a low clock, are
        no measure of its memory.
        """
        count = (2 * GIB if self.gpu else 64 << 20) // 4
        source, target = (torch.ones(count, device=self.device) for _ in range(2))
        times = []
        for _ in range(40 if self.gpu else 12):
            clock = Clock(self.wait)
            target.copy_(source)
            times.append(clock.lap_ms())
        del source, target
        self.free()
        return 2 * 4 * count / min(times) / 1e6


def bytes_per_token(sizes: Sizes, task: Task, itemsize: int) -> float:
    """Read from memory for one token in the middle of the answer: the decoder's weights, the head, keys and
    values."""
    text = sizes.text
    heads = (text.heads + text.kv_heads) * text.head_dim
    layer = 2 * text.hidden * heads + 3 * text.hidden * text.inner
    weights = text.layers * layer + text.vocabulary * text.hidden
    cached = 2 * text.layers * text.kv_heads * text.head_dim * (len(task.ids) + task.answer_tokens / 2)
    return (weights + cached) * itemsize


def random_network(config: dict[str, Any], device: str, dtype: torch.dtype, seed: int = 0) -> Network:
    """The network of a configuration with random weights, made where they stay."""
    with torch.device("meta"):
        network = Network(Sizes.read(config))
    network.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.dim() == 1:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.data.normal_(0.0, 0.02, generator=generator)
    return network.eval().requires_grad_(False)


def measure(size: str, machine: Machine, bandwidth: float, options: argparse.Namespace) -> dict[str, Any]:
    config = config_of(size)
    sizes = Sizes.read(config)
    task = Task(sizes, GRIDS.get(size, GRID), options.tokens)
    capacity = -(-(len(task.ids) + task.answer_tokens) // 256) * 256
    machine.free()
    started = torch.cuda.memory_allocated() if machine.gpu else 0
    network = random_network(config, machine.device, machine.dtype)
    weights_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    ours = Ours(TorchRuntime(network, capacity), machine.wait)
    for _ in range(2):  # the first captures its graphs
        ours.answer(task)
    peak = machine.peak_bytes()
    text, itemsize = sizes.text, machine.dtype.itemsize
    kv_bytes = 2 * text.layers * text.kv_heads * text.head_dim * capacity * itemsize
    runners: dict[str, Any] = {"torch": ours}
    first_use_s = None
    if machine.gpu and importlib.util.find_spec("triton"):
        try:
            fused = TorchRuntime(network, capacity)
            first_use_s = fused.fuse()
            print(f"{size}: fused kernels are ready in {first_use_s:.1f} s; tiles {tiles_of(fused._fused)}", flush=True)
            runners["torch_fused"] = Ours(fused, machine.wait)
            if torch.cuda.get_device_capability() >= (9, 0):
                overlapped = TorchRuntime(network, capacity)
                overlapped.fuse(overlap=True, tiles=fused._fused.tiles)
                runners["torch_overlapped"] = Ours(overlapped, machine.wait)
        except Exception as error:  # a compiler's, of any kind: the figures of plain steps stay
            print(
                f"{size}: not fused here, as the engine would say too: {type(error).__name__}: {error}"[:600],
                flush=True,
            )
    runners |= _peers(config, machine, options.peers)
    if size in options.bundle:
        from qwen3vl_ros.engine.tensorrt.runtime import TensorrtRuntime

        runners["tensorrt"] = Ours(TensorrtRuntime(options.bundle[size]), machine.wait)
    for name, runner in runners.items():
        print(f"{size}: warming up {name}", flush=True)
        runner.answer(task)
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    for round_ in range(options.rounds):
        order = list(runners)[round_ % len(runners) :] + list(runners)[: round_ % len(runners)]
        for name in order:
            lap = runners[name].answer(task)
            laps[name].append(lap)
            print(
                f"{size}, round {round_ + 1}, {name}: {', '.join(f'{k} {v:.1f}' for k, v in lap.items())}", flush=True
            )
    fastest = next(runners[n] for n in ("torch_overlapped", "torch_fused", "torch") if n in runners)
    ahead = seen_ahead(fastest.runtime, task, machine.wait, options.rounds)
    print(f"{size}: the next picture seen ahead: {ahead}", flush=True)
    for runner in runners.values():
        runner.close()
    read = bytes_per_token(sizes, task, itemsize)
    results = {name: summary(found, task.answer_tokens, read, bandwidth) for name, found in laps.items()}
    slowest = results["generate_eager"]["answer_ms"]["median"]
    for found in results.values():
        found["ratio_vs_eager"] = round(slowest / found["answer_ms"]["median"], 2)
    return {
        "seen_ahead": ahead,
        "fused_first_use_s": None if first_use_s is None else round(first_use_s, 1),
        "bytes_per_token": round(read),
        "weights_bytes": weights_bytes,
        "kv_bytes": kv_bytes,
        "peak_bytes": None if peak is None else peak - started,
        "peak_beyond_weights_and_kv_bytes": None if peak is None else peak - started - weights_bytes - kv_bytes,
        "runtimes": results,
    }


def tiles_of(step: Any) -> str:
    """What a FusedStep chose: matrix, rows x columns of a block, warps, stages."""
    return "; ".join(
        f"{tuple(shape)}: {t.rows}x{t.columns}, {t.warps} warps, {t.stages}" for shape, t in step.tiles.items()
    )


def _peers(config: dict[str, Any], machine: Machine, wanted: list[str]) -> dict[str, Generate]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    default = torch.get_default_dtype()
    torch.set_default_dtype(machine.dtype)
    try:
        with torch.device(machine.device):
            model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config)).eval()
    finally:
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = None
    peers = {"generate_eager": Generate(model, machine.wait)}
    if (
        machine.gpu and "compiled" in wanted
    ):  # there it compiles by itself; on a CPU the static cache alone would only be slower
        peers["generate_static_compiled"] = Generate(model, machine.wait, cache_implementation="static")
    return peers


def summary(laps: list[dict[str, float]], tokens: int, read_bytes: float, bandwidth_gb_s: float) -> dict[str, Any]:
    """Median and 95th percentile of each time over rounds, and the speed of decoding.

    The speed is None, and `decode_unknown` says why, where a round's decoding took no time that could be measured.
    """
    found: dict[str, Any] = {}
    for key in laps[0]:
        found[key] = _spread([lap[key] for lap in laps])
    lost = sum(lap["decode_ms"] <= 0 for lap in laps)
    if lost:
        found.update(
            decode_tok_s=None,
            decode_gb_s=None,
            share_of_bandwidth=None,
            decode_unknown=(
                f"in {lost} of {len(laps)} rounds {tokens} tokens took no longer than one: less than this machine's noise; "
                "ask for more --tokens"
            ),
        )
        return found
    found["decode_tok_s"] = _spread([(tokens - 1) / lap["decode_ms"] * 1e3 for lap in laps])
    found["decode_gb_s"] = round(found["decode_tok_s"]["median"] * read_bytes / 1e9, 2)
    found["share_of_bandwidth"] = round(found["decode_gb_s"] / bandwidth_gb_s, 3)
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 3), "p95": round(float(np.percentile(values, 95)), 3)}


# -- telling ---------------------------------------------------------------------------------------------------------


def table(size: str, found: dict[str, Any]) -> str:
    peak = (
        "not measured on a CPU"
        if found["peak_bytes"] is None
        else (
            f"{found['peak_bytes'] / GIB:.2f} GiB, {found['peak_beyond_weights_and_kv_bytes'] / GIB:.2f} beyond weights "
            "and cache"
        )
    )
    lines = [
        f"{size}: {found['bytes_per_token'] / 1e9:.3f} GB are read for a token; peak memory of torch: {peak}",
        " " * 26 + "   vision  prefill   decode             share    answer       p95  x eager",
        " " * 26 + "       ms       ms    tok/s     GB/s                ms        ms",
    ]
    for name, row in found["runtimes"].items():
        stages = [f"{row[key]['median']:9.1f}" if key in row else f"{'':>9}" for key in ("vision_ms", "prefill_ms")]
        decode = (
            f"{'-':>9}{'-':>9}{'-':>8}"
            if row["decode_tok_s"] is None
            else (f"{row['decode_tok_s']['median']:9.1f}{row['decode_gb_s']:9.1f}{row['share_of_bandwidth']:8.0%}")
        )
        lines.append(
            f"{name:26}{''.join(stages)}{decode}{row['answer_ms']['median']:10.1f}"
            f"{row['answer_ms']['p95']:10.1f}{row['ratio_vs_eager']:9.2f}"
        )
    lines += [
        f"{name}: no speed of decoding: {row['decode_unknown']}"
        for name, row in found["runtimes"].items()
        if "decode_unknown" in row
    ]
    return "\n".join(lines)


def main() -> None:
    machine = Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        default="2B,4B,8B" if machine.gpu else "toy",
        help=f"of {', '.join(SIZES)} (default: 2B,4B,8B on a GPU, toy on a CPU)",
    )
    parser.add_argument("--rounds", type=int, default=5 if machine.gpu else 2, help="answers of each runtime")
    parser.add_argument("--tokens", type=int, default=100, help="of an answer")
    parser.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="SIZE=DIR",
        help="TensorRT engines to run too: qwen3vl build random:SIZE --precision bf16 --out DIR",
    )
    parser.add_argument(
        "--peers", default="eager,compiled", help="eager, compiled or both; compiling takes a minute or two a size"
    )
    options = parser.parse_args()
    options.peers = options.peers.split(",")
    if "eager" not in options.peers or not {*options.peers} <= {"eager", "compiled"}:
        parser.error("--peers is eager, or eager,compiled: every ratio is to eager")
    options.bundle = dict(pair.split("=", 1) for pair in options.bundle)
    unknown = (set(options.sizes.split(",")) | set(options.bundle)) - set(SIZES)
    if unknown or options.tokens < 2 or options.rounds < 1:
        parser.error(f"sizes are {', '.join(SIZES)}; tokens at least 2, rounds at least 1")
    dtype = str(machine.dtype).removeprefix("torch.")
    print(
        f"{machine.name}, {dtype}, torch {torch.__version__}; 640x480 image (toy: 128x96), {TEXT_TOKENS} text "
        f"tokens, {options.tokens} tokens out"
    )
    if not machine.gpu:
        print("There is no GPU here: the figures below are of a CPU and say only that everything runs.")
    bandwidth = machine.copy_gb_s()
    print(f"a copy in memory moves {bandwidth:.0f} GB/s, of which all shares below are", flush=True)
    found = {}
    for size in options.sizes.split(","):
        found[size] = measure(size, machine, bandwidth, options)
        print(table(size, found[size]), flush=True)
        # After each size, so that a run that is cut leaves those before.
        print(
            json.dumps(
                {
                    "benchmark": "engine_gpu",
                    "device": machine.name,
                    "gpu": machine.gpu,
                    "dtype": dtype,
                    "torch": torch.__version__,
                    "tokens": options.tokens,
                    "rounds": options.rounds,
                    "copy_gb_s": round(bandwidth, 1),
                    "sizes": found,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
