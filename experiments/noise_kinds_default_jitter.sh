#!/bin/sh
# "With the default of now" in docs/results.md: `trust` with jitter = "clean", three kinds of noise, one seed.
#   experiments/noise_kinds_default_jitter.sh SOURCE OUT [--jobs 2]
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/noise-kinds-small.toml" --out "$out" \
  --set 'jitter="clean"' --set 'methods=["trust"]' --set 'noise=["triangle","box","heptagon"]' --set 'seeds=[0]' "$@"
python "$here/keep_results.py" "$here/../results/noise-kinds-jitter" "$out"
