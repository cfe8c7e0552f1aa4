#!/bin/bash
# What the emulated Hopper checks, checked on the GPU: one case of each family under compute-sanitizer.
command -v compute-sanitizer > /dev/null || { echo 'compute-sanitizer is not here'; exit 77; }
all=quantize_1x128,fp8_gemm,grouped_fp8_gemm/67+0+1+63x136x640,moe_layer,merge_states,mla_absorb_query,mla_decode_bf16,mla_decode_fp8
failures=0
for tool in memcheck synccheck racecheck; do
  # racecheck does not see that one lane's arrival on an mbarrier hands over what its whole warp has stored, which is how
  # the warpgroups of attention pass on their weights.
  cases=$all
  [ "$tool" = racecheck ] && cases=${all%%,mla_decode*}
  echo "--- $tool"
  timeout -k 5 $((LEFT / 3 - 1)) compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
    bin/smoke --goldens goldens.safetensors --only "$cases"
  code=$?
  echo "$tool: exit $code"
  [ "$code" -eq 0 ] || failures=$((failures + 1))
done
[ "$failures" -eq 0 ]
