#!/bin/bash
# What the host is. A tool that is not there is said, and no failure.
uname -srm
date -u
for tool in nvidia-smi nvcc ncu compute-sanitizer python3; do
  echo "$tool: $(command -v "$tool" || echo 'not here')"
done
nvidia-smi -q 2>&1 || true
python3 -c 'import torch; print("torch", torch.__version__, torch.version.cuda)' 2>&1 | tail -n 1
