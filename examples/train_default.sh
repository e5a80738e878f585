#!/usr/bin/env bash
# Trains the bundle that ships, anew: from AAF, UTKFace and paintings, on one machine without a GPU.
#
#     examples/train_default.sh DATA RUNS
#
# DATA holds the folders faces/ (pictures and labels.csv of AAF and UTKFace) and paintings/. The same command continues.
# docs/recipe.md says what was tried; platform/capricious/model/default/MODEL_CARD.md what came out.
set -euo pipefail
data=$1 runs=$2
cd "$(dirname "$0")/.."
export PYTHONPATH=platform

for set in faces:0.15 paintings:0.3; do
    python jobs/prepare.py --source "$data/${set%:*}" --out "$runs/${set%:*}" --test-share "${set#*:}" \
        --annotator.resolution 128 || [ $? = 3 ]
done
# An allocator that keeps its memory: a step makes many tensors of tens of megabytes.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=100000000000

# train NAME KIMG FLAG…
train() {
    python -m capricious.training --config examples/train_default.yaml --data "$runs/faces" "$runs/paintings" \
        --out "$runs/$1" --training.kimg "$2" "${@:3}"
}
# First whole pictures, then what is delivered of them: the change of age. The discriminator is taken along.
train first 16
train second 21 --training.warm-start "$runs/first/weights" --training.lr-ramp-kimg 0.8 --training.swap.put-back \
    --training.swap.probability 0.6 --training.swap.identity 3 --training.swap.identity-features 0 --training.loss.kl 0.01
python examples/ship_bundle.py "$runs/second/bundle" platform/capricious/model/default
