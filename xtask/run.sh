#!/bin/sh
# Runs every test, the verification and the benches of this bundle, each for at most LIMIT seconds.
#
#   ./run.sh [LIMIT]
#
# results/ gets one log per program, verify.json and summary.json. Exit code: 0 when all passed.
cd "$(dirname "$0")" || exit 2
limit=${1:-600}
mkdir -p results
{ date -u; uname -srm; nvidia-smi; } > results/machine.txt 2>&1

failed=0
comma=
summary=results/summary.json
printf '[' > "$summary"

# check NAME COMMAND...
check() {
  name=$1
  shift
  begin=$(date +%s)
  timeout "$limit" "$@" > "results/$name.txt" 2>&1
  code=$?
  seconds=$(($(date +%s) - begin))
  skipped=$(grep -c SKIPPED "results/$name.txt")
  [ "$code" -eq 0 ] || failed=$((failed + 1))
  printf '%-40s exit %d  %d s  %d skipped\n' "$name" "$code" "$seconds" "$skipped"
  printf '%s\n  {"name": "%s", "exit": %d, "seconds": %d, "skipped": %d}' \
    "$comma" "$name" "$code" "$seconds" "$skipped" >> "$summary"
  comma=,
}

for program in tests/*; do
  check "test-$(basename "$program")" "$program" --nocapture
done
check verify bin/deepseek-kernels verify --json results/verify.json
for program in benches/*; do
  # Without --bench criterion only tries each benchmark once.
  CRITERION_HOME=results/criterion check "bench-$(basename "$program")" "$program" --bench
done

printf '\n]\n' >> "$summary"
echo "$failed failed; see results/"
[ "$failed" -eq 0 ]
