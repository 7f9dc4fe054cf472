#!/bin/sh
# "With an encoder that knows ImageNet" in docs/results.md: the first table's methods with another network.
#   experiments/pretrained_encoder.sh SOURCE OUT [--jobs 2] [--set 'methods=["mended","clean"]']
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Needs the two packages that pretrained.py names. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" pixeltrust benchmark "$source" --config "$here/grids/mended.toml" --out "$out" --set model=pretrained:unet \
  --set 'methods=["mended","clean","finetuned","ceiling"]' --set 'clean=[100]' "$@"
python "$here/keep_results.py" "$here/../results/pretrained" "$out"
