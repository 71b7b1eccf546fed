#!/usr/bin/env bash
# The exact FP8 tensor core against PyPI's mmaemu, bit for bit: `bash .ci/witnesses/mmaemu.sh`. Needs Rust, python3 with venv, and
# 6 GB for mmaemu's torch, which PyPI has only with CUDA's libraries; installed once, into target/ci-mmaemu-venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=(mmaemu==0.1.0 torch==2.15.0 numpy==2.4.6)
venv=target/ci-mmaemu-venv
if [ "$(cat "$venv/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    echo "${packages[*]}" >"$venv/installed"
fi
cargo run --quiet --package hadal-emulator --example dot_vectors -- target/dot_vectors.bin 20000
"$venv/bin/python" -B .ci/witnesses/mmaemu.py target/dot_vectors.bin
