#!/usr/bin/env bash
# Builds the distributions, checks them, and installs the wheel into an empty environment outside of the clone, where all commands have to work.
set -euo pipefail
here=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install -q build check-wheel-contents hatchling twine
"$scratch/tools/bin/python" -m build --outdir "$scratch/dist" "$here" >"$scratch/build.log" 2>&1 || { tail -20 "$scratch/build.log"; exit 1; }
"$scratch/tools/bin/twine" check --strict "$scratch"/dist/*
"$scratch/tools/bin/check-wheel-contents" "$scratch"/dist/*.whl
python3 -m venv "$scratch/empty"
"$scratch/empty/bin/pip" install -q "$scratch"/dist/*.whl
cp "$here/sample_models/encoder_keras3/model.keras" "$here/sample_models/no_beta_keras208/model.h5" "$scratch"
cd "$scratch"
export PATH="$scratch/empty/bin:$PATH"
bn-export model.keras out.json
bn-export out.json
bn-export model.h5 kit.zip
bn-verify out.json model.keras
bn-diagnose model.h5 --input 1,5 --output 0.79519051,4.17485714
python -c 'import numpy; numpy.save("x.npy", numpy.ones((2, 4), "float32"))'
bn-eval out.json x.npy y.npy --layer head_bn
test -s y.npy
