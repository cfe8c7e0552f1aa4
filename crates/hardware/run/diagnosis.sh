#!/bin/bash
# The smoke test has failed: each of its cases in a process of its own, and the first that fails once more under memcheck.
failed=
for case in $(bin/smoke --list); do
  if timeout -k 5 15 bin/smoke --goldens goldens.safetensors --only "$case"; then
    continue
  fi
  echo "$case: failed"
  [ -n "$failed" ] || failed=$case
done
if [ -n "$failed" ] && command -v compute-sanitizer > /dev/null; then
  timeout -k 5 40 compute-sanitizer --tool memcheck bin/smoke --goldens goldens.safetensors --only "$failed"
fi
[ -z "$failed" ]
