#!/usr/bin/env bash
# What has to be seen on a GPU, in at most ten minutes, with one table at the end: the tests marked gpu, all others with
# the card visible, a run of the sample, the speed of training and of decoding. A step that fails does not stop the next.
#
#   bash tests/gpu_check.sh [--dry] [FOLDER]
#
# --dry: small sizes on the CPU, to try the script itself. FOLDER: for logs and figures; default: a new one in /tmp.
# PYTHON: the interpreter; default: that of .venv, else python.
set -uo pipefail
case "${1:-}" in --dry | [!-]* | "") ;; *) sed -n '2,8s/^# \?//p' "$0" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
dry=; if [ "${1:-}" = --dry ]; then dry=1; shift; fi
out=$(mkdir -p "${1:-/tmp}" && if [ -n "${1:-}" ]; then cd "$1" && pwd; else mktemp -d /tmp/gpu_check.XXXX; fi)
python=${PYTHON:-python}; if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
cores=$(nproc 2>/dev/null || echo 2)

# step NAME SECONDS COMMAND...: its output goes to NAME.log, a row of the table to steps.tsv
step() {
  local name=$1 limit=$2 started=$SECONDS status; shift 2
  echo "$name ..."
  timeout "$limit" "$@" > "$out/$name.log" 2>&1; status=$?
  if [ $status = 124 ]; then status="over its $limit s"; fi
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - started))" >> "$out/steps.tsv"
}

: > "$out/steps.tsv"
run=$out/run; model=$run/stage3_t2m_sft
if [ -n "$dry" ]; then
  export CUDA_VISIBLE_DEVICES=
  step tests_gpu 120 $python -m pytest tests/test_gpu.py -m gpu -q -rs
  step tests_others 120 $python -m pytest tests/test_templates.py -q
  step sample 400 $python train_pipeline.py --work_dir "$run" --max_minutes 0.3 --heldout_max 2 --report_page false
  step train 200 $python bench.py train --random_init tiny --only_ours --minutes 0.05 --output "$out/train.json"
  step decode 200 $python bench.py decode --model_path "$model" --batches 1 8 --clip_tokens 8 --rounds 1 --mixed 0 \
    --without_vllm --output "$out/decode.json"
  step decode_large 200 $python bench.py decode --random_init tiny --batches 1 --clip_tokens 8 --rounds 1 --mixed 0 \
    --output "$out/decode_large.json"
else
  step tests_gpu 90 $python -m pytest tests -m gpu -q
  step sample 150 $python train_pipeline.py --work_dir "$run"
  step train 110 $python bench.py train --random_init qwen3-1.7b --batch_train 128 --minutes 0.2 --output "$out/train.json"
  step decode 70 $python bench.py decode --model_path "$model" --batches 1 8 32 128 --mixed 0 --without_vllm \
    --output "$out/decode.json"
  step decode_large 80 $python bench.py decode --random_init qwen3-1.7b --batches 1 32 --rounds 2 --mixed 0 \
    --output "$out/decode_large.json"
  step tests_others 120 $python -m pytest tests -m "not gpu" -q -n "$((cores < 8 ? cores : 8))"
fi
$python tests/gpu_check_table.py "$out"
