#!/bin/sh
# "At equal updates and in equal time" in docs/results.md: triangles, 100 clean masks, the same augmentation for every method.
#   experiments/triangles_same_augmentation.sh SOURCE OUT [--jobs 2] [--set 'seeds=[0]']
# SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. Called again it runs what is missing.
set -eu
here=$(dirname "$0") source=$1 out=$2
shift 2
pixeltrust benchmark "$source" --config "$here/grids/triangles-jitter.toml" --out "$out/updates" "$@"
pixeltrust benchmark "$source" --config "$here/grids/triangles-jitter.toml" --set match=time --out "$out/time" "$@"
python "$here/keep_results.py" "$here/../results/triangles-jitter" "$out/updates"
python "$here/keep_results.py" "$here/../results/triangles-jitter-time" "$out/time"
