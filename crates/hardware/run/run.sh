#!/bin/bash
# Runs the steps of steps.txt on a GPU host, most important first, all within DEADLINE seconds.
#
#   ./run.sh DEADLINE OUT [EARLIER]
#
# OUT: an empty folder. After every step it holds whole files, at most seven, so that a run that is cut off still brings
# them back. EARLIER: OUT of a call before; what passed there is not run again, times that are there are not measured again.
# No setting of the GPU is touched. Exit code: 0 when every step passed or was skipped for want of a tool.
usage='usage: run.sh DEADLINE OUT [EARLIER]'
case $1 in '' | *[!0-9]*) echo "$usage: expected seconds, got '$1'" >&2; exit 2 ;; esac
[ -d "$2" ] || { echo "$usage: expected a folder, got '$2'" >&2; exit 2; }
[ -z "$3" ] || [ -f "$3/summary.ndjson" ] || { echo "$usage: '$3' has no summary.ndjson" >&2; exit 2; }
deadline=$((SECONDS + $1))
export OUT EARLIER WORK
OUT=$(cd "$2" && pwd)
EARLIER=${3:+$(cd "$3" && pwd)}
WORK=$(mktemp -d) || exit 2
trap 'rm -rf "$WORK"' EXIT
cd "$(dirname "$0")" || exit 2

# Where the toolkit's tools lie, even where nobody put them on the path.
export PATH=$PATH:/usr/local/cuda/bin
# The C++ runtime that came along, where the host's is older or missing.
bin/smoke --list > /dev/null 2>&1 || export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export DEEPSEEK_KERNELS_TEST_DEVICES=gpu
export EARLIER_CSV=
[ -f "$EARLIER/timings.csv" ] && EARLIER_CSV="--earlier $EARLIER/timings.csv"
# REHEARSAL=1: steps that a machine without a GPU can afford, in small.
export REDUCED= SMOKE_REDUCED=
[ -n "$REHEARSAL" ] && REDUCED=--reduced SMOKE_REDUCED='--every 12'

# A kernel that hung, or a GPU that was lost, must not eat the rest: after two of these nothing more is tried.
dead_canaries=0
failures=0
declare -A codes

# As a JSON string.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "$(tr -d '\000-\037' <<< "$text")"
}

# skip NAME REASON
skip() {
  printf '{"name": "%s", "skipped": %s}\n' "$1" "$(quoted "$2")" >> "$OUT/summary.ndjson"
  echo "$1: skipped: $2"
}

# limited SECONDS NAME COMMAND: its code; what it prints, and what the driver logs, are in WORK.
limited() {
  LEFT=$1 CUDA_LOG_FILE=$WORK/$2.driver.txt timeout -k 5 "$1" bash -o pipefail -c "$3" > "$WORK/$2.txt" 2>&1 < /dev/null
}

# Everything so far, whole.
pack() {
  tar czf "$OUT/.part" -C "$WORK" . 2> /dev/null && mv "$OUT/.part" "$OUT/results.tar.gz"
}

canary() {
  [ -n "$canary_command" ] || return
  limited "$canary_seconds" canary "$canary_command" || dead_canaries=$((dead_canaries + 1))
  {
    echo "--- canary after $1: $(tail -n 1 "$WORK/canary.txt")"
    timeout 5 nvidia-smi --query-gpu=name,clocks.sm,power.draw,temperature.gpu,ecc.errors.uncorrected.volatile.total \
      --format=csv 2>&1 || echo 'nvidia-smi does not answer'
  } >> "$OUT/log.txt"
}

# step NAME SECONDS COMMAND
step() {
  local name=$1 budget=$2 left=$((deadline - SECONDS)) begin end code failed
  [ "$dead_canaries" -ge 2 ] && { skip "$name" 'the GPU does not answer'; return; }
  [ "$left" -lt $((budget < 15 ? budget : 15)) ] && { skip "$name" 'no time left'; return; }
  [ "$budget" -gt "$left" ] && budget=$left
  begin=${EPOCHREALTIME/./}
  limited "$budget" "$name" "$3"
  code=$?
  end=${EPOCHREALTIME/./}
  codes[$name]=$code
  [ "$code" -eq 77 ] && { skip "$name" "$(tail -n 1 "$WORK/$name.txt")"; return; }
  {
    echo "=== $name: exit $code"
    tail -c 200000 "$WORK/$name.txt"
    [ -s "$WORK/$name.driver.txt" ] && { echo "--- the driver's own words"; tail -c 20000 "$WORK/$name.driver.txt"; }
  } >> "$OUT/log.txt"
  # libtest lists the failures at the end, each indented.
  failed=$(sed -n 's/^    \([a-z0-9_:]*\)$/"\1"/p' "$WORK/$name.txt" | sort -u | paste -sd,)
  printf '{"name": "%s", "exit": %d, "milliseconds": %d, "failed": [%s]}\n' \
    "$name" "$code" $(((end - begin) / 1000)) "$failed" >> "$OUT/summary.ndjson"
  echo "$name: exit $code"
  if [ "$code" -ne 0 ] && [ "$code" -ne 75 ]; then
    failures=$((failures + 1))
    canary "$name"
  fi
}

: > "$OUT/summary.ndjson"
: > "$OUT/log.txt"
while read -r name seconds when rehearsed command <&3; do
  case $name in
    '' | \#*) continue ;;
    canary) canary_command=$command canary_seconds=$seconds; continue ;;
  esac
  [ "${when%%:*}" = failed ] && [ "${codes[${when#failed:}]:-0}" -eq 0 ] && continue
  if [ -n "$REHEARSAL" ] && [ "$rehearsed" != yes ]; then
    skip "$name" 'not rehearsed'
  elif [ -n "$EARLIER" ] && grep -q "^{\"name\": \"$name\", \"exit\": 0," "$EARLIER/summary.ndjson"; then
    skip "$name" 'passed before'
  else
    step "$name" "$seconds" "$command"
    pack
  fi
done 3< steps.txt
echo "$failures steps failed: $OUT/summary.ndjson, $OUT/log.txt"
[ "$failures" -eq 0 ]
