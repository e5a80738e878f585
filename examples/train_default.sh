#!/usr/bin/env bash
# Trains the bundle that ships, anew: from AAF, UTKFace and paintings. Training takes 18 minutes on an H200; on a CPU days.
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
    python jobs/prepare.py --source "$data/${set%:*}" --out "$runs/${set%:*}" --test-share "${set#*:}" --quality 85 \
        --annotator.resolution 128 || [ $? = 3 ]
done
# A second estimator of age and gender, harder to please by a tint than face-api's.
estimator=$runs/estimator.safetensors
[ -f "$estimator" ] || python -m capricious.training.estimator --data "$runs/faces" "$runs/paintings" \
    --out "$estimator" --kimg 300 --batch-size 192 --hostility 2

# train NAME KIMG FLAG…
train() {
    python -m capricious.training --config examples/train_default.yaml --data "$runs/faces" "$runs/paintings" \
        --out "$runs/$1" --training.kimg "$2" --training.swap.estimator "$estimator" "${@:3}"
}
# First whole pictures; then what is delivered of them, the change of age; then with a network that puts it back.
train first 60
delivered=(--training.ema-kimg 20 --training.loss.kl 0.01 --training.loss.age 8 --training.swap.put-back
    --training.swap.identity 2)
train second 150 "${delivered[@]}" --training.warm-start "$runs/first/weights" --training.lr-ramp-kimg 2 \
    --training.loss.gender 1 --training.swap.probability 0.75 --training.swap.identity-features 0
train third 186 "${delivered[@]}" --training.warm-start "$runs/second/weights" --training.lr-ramp-kimg 3 \
    --training.loss.gender 2 --training.swap.probability 1 --training.swap.identity-features 1.5 \
    --training.swap.dlib-estimator --training.mismatched 0.5 --training.network.refinement-width 24
python examples/ship_bundle.py "$runs/third/bundle" platform/capricious/model/default 1.5
