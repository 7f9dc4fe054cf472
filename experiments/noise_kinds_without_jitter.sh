#!/bin/sh
# "Without jitter: the paper's experiment and the rivals" and "Other noise" in docs/results.md: every method, five kinds of noise, 100 clean masks.
#   experiments/noise_kinds_without_jitter.sh SOURCE OUT [--jobs 2] [--set 'noise=["triangle"]']
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/noise-kinds-small.toml" --out "$out" "$@"
python "$here/keep_results.py" "$here/../results/noise-kinds-small" "$out"
