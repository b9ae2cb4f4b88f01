"""Where one token's time goes on a GPU: the step as it is, fused, and compiled by torch, at the layers of the published sizes.

Random weights, a decoder cut to --layers layers, a cache filled to --length of --span slots, each step a captured CUDA graph
that is replayed. `of the copy`: bytes of the weights, the head, keys and values over the time, as a share of what a copy in
GPU memory moves. Then the kernels of one token,
by torch's profiler. Without a GPU it says so and times plain steps alone. The last line is JSON.

    make bench BENCH=decode_kernels [ARGS="--sizes 2B,8B --ways plain,fused,overlapped,compiled,tuned"]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Callable

import torch
from engine_gpu import Machine, random_network, tiles_of

from qwen3vl_ros.engine.torch.network import Cache, Network
from qwen3vl_ros.engine.torch.runtime import _best, _CapturedStep
from qwen3vl_ros.export.random_weights import SIZES, config_of

WAYS = ("plain", "fused", "overlapped", "compiled", "tuned")
REPLAYS = 50


class CompiledStep:
    """The plain step with its layer compiled by torch, once for all layers; a stand-in for FusedStep, to be compared."""

    def __init__(self, network: Network, options: dict[str, bool]):
        self._text = network.text
        layer = type(network.text.layers[0])
        self._layer = torch.compile(layer.forward, dynamic=False, fullgraph=True, options=options)

    def __call__(self, inputs: torch.Tensor, cache: Cache, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        text = self._text
        ids, slots = inputs[:, :2].long().unbind(1)
        cos, sin = inputs[:, 2:].float().chunk(2, 1)
        plan = text.plan(cos, sin, slots.contiguous(), span)
        x = text.embedding(ids)
        for layer, keys, values in zip(text.layers, cache.keys, cache.values):
            x = self._layer(layer, x, plan, keys, values)
        head = text.embedding if text.head is None else text.head
        logits = torch.nn.functional.linear(text.norm(x), head.weight)
        return logits, _best(logits)


def step_of(way: str, network: Network, tiles: dict):
    """What computes a step, or None for the plain one. tiles: by network, those that were measured."""
    if way == "plain":
        return None
    if way in ("fused", "overlapped"):
        from qwen3vl_ros.engine.torch.fused import FusedStep

        step = FusedStep(network.text, way == "overlapped", tiles.get(network))
        tiles[network] = step.tiles
        print(f"    tiles: {tiles_of(step)}", flush=True)
        return step
    return CompiledStep(network, {"coordinate_descent_tuning": True} if way == "tuned" else {})


def timed_us(run: Callable[[], object], machine: Machine) -> float:
    for _ in range(5):
        run()
    machine.wait()
    begun = time.perf_counter()
    for _ in range(REPLAYS if machine.gpu else 3):
        run()
    machine.wait()
    return (time.perf_counter() - begun) / (REPLAYS if machine.gpu else 3) * 1e6


@torch.inference_mode()
def measure(size: str, way: str, network: Network, machine: Machine, options: argparse.Namespace) -> dict:
    sizes = network.text.sizes
    torch._dynamo.reset()
    begun = time.perf_counter()
    cache = Cache.allocate(sizes, options.span, machine.device, machine.dtype)
    for tensor in cache:
        tensor.normal_(generator=torch.Generator(machine.device).manual_seed(1))
    captured = _CapturedStep(network.text, cache, 1, options.span, None, step_of(way, network, options.tiles))
    row = captured._host.numpy()
    row[:] = 0.5
    row[:, 0], row[:, 1] = 7, options.length
    cos = sin = row[:, 2 : 2 + sizes.head_dim].copy()

    def run():
        return captured.run([7], options.length, cos, sin)

    logits = torch.from_numpy(run().logits())
    first_s = time.perf_counter() - begun
    whole = timed_us(captured._graph.replay if machine.gpu else run, machine)
    layer = sizes.hidden * (2 * sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim + 3 * sizes.hidden * sizes.inner
    read = (
        sizes.layers * (layer + 2 * sizes.kv_heads * sizes.head_dim * options.length) + sizes.vocabulary * sizes.hidden
    )
    found = {
        "first_use_s": round(first_s, 1),
        "token_us": round(whole, 1),
        "gb_s": round(read * machine.dtype.itemsize / whole / 1e3, 1),
    }
    if machine.gpu and not options.no_profile:
        profile(captured, found)
    return {**found, "logits": logits}


def profile(captured: _CapturedStep, found: dict) -> None:
    """Prints the kernels of one token, longest first, and counts them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(3):
            captured._graph.replay()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda r: -r.self_device_time_total)
    rows = [r for r in rows if r.self_device_time_total]
    found["kernels"] = round(sum(r.count for r in rows) / 3)
    found["kernels_us"] = round(sum(r.self_device_time_total for r in rows) / 3, 1)
    print(f"    {found['kernels']} kernels, {found['kernels_us']} us in them; the longest, us a token, times a token:")
    for r in rows[:15]:
        print(f"    {r.self_device_time_total / 3:9.1f} {r.count / 3:6.1f}  {r.key[:88]}", flush=True)


def main() -> None:
    machine = Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2B,8B" if machine.gpu else "toy", help=f"of {', '.join(SIZES)}")
    parser.add_argument(
        "--ways", default="plain,fused,overlapped,compiled" if machine.gpu else "plain", help=f"of {', '.join(WAYS)}"
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--span", type=int, default=512, help="slots of the cache")
    parser.add_argument("--length", type=int, default=430, help="slots that are filled")
    parser.add_argument("--no-profile", action="store_true", help="no table of kernels")
    options = parser.parse_args()
    if not set(options.sizes.split(",")) <= set(SIZES) or not set(options.ways.split(",")) <= set(WAYS):
        parser.error(f"sizes are {', '.join(SIZES)}; ways are {', '.join(WAYS)}")
    if not 0 <= options.length < options.span:
        parser.error("--length is 0 to --span - 1")
    options.tiles = {}
    copy = machine.copy_gb_s()
    print(f"{machine.name}, torch {torch.__version__}; a copy moves {copy:.0f} GB/s", flush=True)
    if not machine.gpu:
        print("There is no GPU here: the figures below are of a CPU and say only that everything runs.")
    results: dict[str, dict] = {}
    for size in options.sizes.split(","):
        config = config_of(size, layers=options.layers)
        network = random_network(config, machine.device, machine.dtype)
        first = None
        for way in options.ways.split(","):
            try:
                found = measure(size, way, network, machine, options)
            except Exception as error:  # one way that fails is a result, and the others go on
                print(f"{size}, {way}: {type(error).__name__}: {' '.join(str(error).split())[:600]}", flush=True)
                results.setdefault(size, {})[way] = {"error": str(error)[:300]}
                continue
            logits = found.pop("logits")
            first = logits if first is None else first
            found["share_of_copy"] = round(found["gb_s"] / copy, 3)
            found["off"] = float((logits - first).abs().max() / first.abs().max())
            results.setdefault(size, {})[way] = found
            print(
                f"{size}, {options.layers} layers and head, {way}: {found['token_us']} us a token, {found['gb_s']} GB/s, "
                f"{found['share_of_copy']:.0%} of the copy; first use {found['first_use_s']} s; logits off by {found['off']:.1e}",
                flush=True,
            )
        options.tiles.clear()
        del network
        machine.free()
    print(
        json.dumps(
            {"benchmark": "decode_kernels", "device": machine.name, "copy_gb_s": round(copy, 1), "sizes": results}
        )
    )


if __name__ == "__main__":
    main()
