#!/bin/sh
# "Mended masks" in docs/results.md: mending and then training, beside the other uses of the same masks.
#   experiments/mended_masks.sh SOURCE OUT [--jobs 2] [--set 'clean=[100]'] [--set 'methods=["mended","clean"]']
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/mended.toml" --out "$out/updates" "$@"
python "$here/keep_results.py" "$here/../results/mended" "$out/updates"
# in the time of mending and training, 1.6 times that of training alone (docs/results.md); these settings hold whatever is asked for above
pixeltrust benchmark "$source" --config "$here/grids/mended.toml" --out "$out/equal-time" "$@" --set epochs=16 \
  --set 'methods=["finetuned","clean"]'
python "$here/keep_results.py" "$here/../results/mended-equal-time" "$out/equal-time"
