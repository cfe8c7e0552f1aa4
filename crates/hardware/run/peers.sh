#!/bin/bash
# Other libraries on the same shapes.
command -v python3 > /dev/null || { echo 'python3 is not here'; exit 77; }
[ -s "$OUT/timings.csv" ] || [ -n "$EARLIER_CSV" ] || { echo 'there are no rows of ours to compare with'; exit 77; }
export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda} # DeepGEMM compiles its kernels when they are first used
# shellcheck disable=SC2086 # an option and its file
python3 -u peers/run.py --csv "$OUT/timings.csv" $EARLIER_CSV --wheels wheels --seconds 0.2 \
  --budget $((LEFT > 5 ? LEFT - 5 : 0))
