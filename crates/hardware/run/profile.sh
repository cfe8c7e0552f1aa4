#!/bin/bash
# Where kernels spend their time: pipes, stalls and memory in profile.txt, instruction by instruction in KERNEL.csv. No
# clock is locked.
command -v ncu > /dev/null || { echo 'ncu is not here'; exit 77; }
failures=0
# profile KERNEL LIST CASE
profile() {
  local report=$WORK/$1-$3.ncu-rep
  report=${report// /_}
  timeout -k 5 $((LEFT / 4)) ncu --clock-control none --kernel-name "regex:^$1\$" --launch-count 1 \
    --section SpeedOfLight --section WarpStateStats --section MemoryWorkloadAnalysis --section SchedulerStats \
    --section SourceCounters --export "$report" --force-overwrite \
    bin/timings "$2" --only "${3//-//}" --csv "$WORK/profiled.csv" || failures=$((failures + 1))
  echo "--- $1 $3"
  ncu --import "$report" --page details --print-units base || failures=$((failures + 1))
  ncu --import "$report" --page source --print-source sass --csv > "${report%.ncu-rep}.csv" || failures=$((failures + 1))
  rm -f "$report"
}
profile fp8_gemm_m256_n128_c2_bf16 rivals fp8_gemm-4096x7168x2048_bf16_fp8_gemm_m256_n128_c2
profile fp8_gemm_m64_n16_c1_bf16 first fp8_gemm-64x2112x7168
profile fp8_gemm_m64_n16_c1_bf16 first fp8_gemm-1x2112x7168
profile grouped_fp8_gemm_m128_n192_c2_bf16 first grouped_fp8_gemm-8x4096x7168x2048
profile mla_decode_bf16_c2 first mla_decode_bf16-b128q1s4096h128
profile mla_decode_fp8_c2 first mla_decode_fp8-b128q1s4096h128
[ "$failures" -eq 0 ]
