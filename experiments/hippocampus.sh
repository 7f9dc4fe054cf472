#!/bin/sh
# "Volumes" in docs/results.md: what a network learns from eroded masks of the hippocampus, mended ones, and the clean ones alone.
#   experiments/hippocampus.sh SOURCE OUT [--jobs 2] [--set 'clean=[20]'] [--set 'methods=["mended","plain"]']
# SOURCE: hippocampus volumes of the Medical Segmentation Decathlon (images/, masks/, split.csv). Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/hippocampus.toml" --out "$out/long" "$@"
python "$here/keep_results.py" "$here/../results/hippocampus" "$out/long"
pixeltrust benchmark "$source" --config "$here/grids/hippocampus.toml" --out "$out/time" --set updates_per_epoch=6580 "$@" \
  --set 'methods=["clean","finetuned"]' # in the time of mending and 1,880 updates
python "$here/keep_results.py" "$here/../results/hippocampus-equal-time" "$out/time"
pixeltrust benchmark "$source" --config "$here/grids/hippocampus.toml" --out "$out/short" --set updates_per_epoch=400 \
  --set 'mender={model="unet-tiny",image_size=[40,56,40],epochs=10,updates_per_epoch=40,stronger_below=0}' "$@"
python "$here/keep_results.py" "$here/../results/hippocampus-400-updates" "$out/short"
