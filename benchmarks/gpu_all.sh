#!/usr/bin/env bash
# Everything that half an hour on a GPU can decide, in one run: tests/gpu, the engine at the published sizes on torch and, where its
# libraries are, on TensorRT, the stream with drafts, the self-test; then the table for docs/results.md.
#
#   benchmarks/gpu_all.sh [OUT]          into OUT (default: runs/gpu); each step has a log there, and none ends the others
#
#   PYTHON=...    an interpreter that has torch and what the package needs (default: the environment of `make`)
#   SIZES=2B,4B   of 2B, 4B, 8B and toy (default: all three; toy without a GPU: a rehearsal, which writes no table into docs)
#   ENGINE_ARGS=...  for benchmarks/engine_gpu.py, e.g. "--rounds 3 --peers eager": compiling a peer takes a minute or two a size
#   KERNEL_ARGS=...  for benchmarks/decode_kernels.py, e.g. "--sizes 2B,8B --ways plain,fused,overlapped": torch.compile takes its time
#   BUDGET_S=1700 after so many seconds no step begins, and the one that runs is ended; what it has printed stays
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
begun=$SECONDS budget=${BUDGET_S:-1700} failed=0
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -z "${PYTHON:-}" ]; then
    EXTRAS="reference model test" source scripts/env.sh || exit 1
    PYTHON=python
fi
export PYTHONPATH="$PWD:$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}"
has() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }
gpu=$("$PYTHON" -c 'import torch; print(int(torch.cuda.is_available()))') || exit 1
sizes=${SIZES:-$([ "$gpu" = 1 ] && echo 2B,4B,8B || echo toy)}
module=""
for name in tensorrt tensorrt_rtx; do [ -z "$module" ] && has "$name" && module=$name; done

export PYTHONUNBUFFERED=1

# step NAME COMMAND...: its output is shown and goes into OUT/NAME.log.
step() {
    local name=$1 since=$SECONDS status
    shift
    if ((SECONDS - begun >= budget)); then
        echo "$name: not begun, the $budget s are over" | tee "$out/$name.log"
        return 1
    fi
    timeout -k 5 $((budget - SECONDS + begun)) "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
    echo "$name: status $status, $((SECONDS - since)) s"
    [ $status = 0 ] || failed=$((failed + 1))
    return $status
}

echo "GPU: $gpu, sizes $sizes, TensorRT: ${module:-none}, into $out"
rm -f "$out"/*.log
# What decides most first: a token's kernels, all sizes on torch, then the tests and the stream; TensorRT last, whose engines take
# minutes to build.
step kernels "$PYTHON" benchmarks/decode_kernels.py --sizes "$sizes" ${KERNEL_ARGS:-}
step engine_torch "$PYTHON" benchmarks/engine_gpu.py --sizes "$sizes" ${ENGINE_ARGS:-}
if has pytest pytest_timeout; then
    step tests "$PYTHON" -m pytest -q -m gpu tests/gpu
else
    echo "tests: not run (they need pytest and pytest-timeout)"
fi
step selftest "$PYTHON" -m qwen3vl_ros.cli selftest --set engine=torch
step stream "$PYTHON" benchmarks/decode_stream.py --engine torch --frames $([ "$gpu" = 1 ] && echo 100 || echo 4)
if [ -n "$module" ] && [ "$gpu" = 1 ] && has cuda onnx ml_dtypes; then
    for size in ${sizes//,/ }; do
        step "build_$size" "$PYTHON" -m qwen3vl_ros.cli build "random:$size" --out "$out/bundle-$size" --precision bf16 \
            --module "$module" && step "engine_tensorrt_$size" "$PYTHON" benchmarks/engine_gpu.py --sizes "$size" \
            --bundle "$size=$out/bundle-$size"
    done
else
    echo "tensorrt: not measured (it needs a GPU, tensorrt or tensorrt_rtx, cuda-python, onnx and ml_dtypes)"
fi
"$PYTHON" benchmarks/gpu_table.py "$out" $([ "$gpu" = 1 ] && echo --write) || failed=$((failed + 1))
echo "$failed steps failed, $((SECONDS - begun)) s"
[ "$failed" = 0 ]
