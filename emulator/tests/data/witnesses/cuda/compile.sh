#!/usr/bin/env bash
# Compiles this folder to PTX for sm_90a. Usage: compile.sh FOLDER_OF_NVCC_S_BIN; 13.5.37 made what lies here (PyPI:
# nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl).
set -euo pipefail
cd "$(dirname "$0")"
for source in *.cu; do
    "$1/nvcc" -ptx -arch=sm_90a -O3 -std=c++17 -o "${source%.cu}.ptx" "$source"
done
