#!/bin/sh
# "Few clean masks" in docs/results.md: 10 to 200 clean masks.
#   experiments/few_clean_masks.sh SOURCE OUT [--jobs 2] [--set 'clean=[10]']
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/clean-counts-small.toml" --out "$out" "$@"
python "$here/keep_results.py" "$here/../results/clean-counts-small" "$out"
