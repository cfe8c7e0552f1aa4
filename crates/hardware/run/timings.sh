#!/bin/bash
# Times of a list, an operation at a time: one whose kernel fails takes its process along, not the others.
begin=$SECONDS code=0
for operation in copy fp8_gemm grouped_fp8_gemm gate_up_swiglu mla_decode moe_layer quantize transpose_scales rms_norm mla_absorb rope kv_append merge_states; do
  # shellcheck disable=SC2086 # options
  bin/timings "$1" --only "$operation" --csv "$OUT/timings.csv" --deadline="$((LEFT - 5 - SECONDS + begin))" \
    $EARLIER_CSV $REDUCED
  last=$?
  [ "$last" -eq 0 ] || [ "$code" -eq 1 ] || code=$last # a failure tells more than that time ran out
done
exit $code
