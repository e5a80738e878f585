#!/usr/bin/env bash
# Trains the bundle that ships, anew: from AAF, UTKFace and paintings. The first three stages take 18 minutes on an H200, on
# a CPU days; the others took an hour and a half on two cores.
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
# That network alone, judged as strongly as it is delivered; once hard for age, once for the sitter. The mean ships.
alone=("${delivered[@]}" --training.learns refinement --training.swap.strength 1.5 --training.network.refinement-width 24
    --training.swap.probability 1 --training.swap.dlib-estimator --training.mismatched 0.5 --training.loss.gender 3
    --training.perceptual-pool 2 --training.batch-size 16 --training.lr-discriminator 2e-4 --training.discriminator-steps 1
    --training.ema-kimg 3 --training.checkpoint-kimg 2 --training.snapshot-kimg 2)
train fourth 6 "${alone[@]}" --training.warm-start "$runs/third/weights" --training.lr-ramp-kimg 0.5 \
    --training.lr-generator 2e-4 --training.loss.age 10 --training.swap.identity-features 1.5 \
    --training.swap.min-age 6 --training.swap.max-age 84
train fifth 4 "${alone[@]}" --training.warm-start "$runs/fourth/weights" --training.lr-ramp-kimg 0.2 \
    --training.lr-generator 1e-4 --training.loss.age 6 --training.swap.identity-features 2.5 \
    --training.swap.min-age 8 --training.swap.gender-probability 0.1 --training.data-shares 0.85 0.15
python examples/ship_bundle.py "$runs/fifth/bundle" "$runs/mean" --mix "$runs/fourth/checkpoints/images-000000004000/bundle"
# From their mean, the likeness judged by networks that know faces, and less by colours. First a discriminator that knows
# what the mean delivers: it sees shifted pictures, or it would draw a grid.
shifted=("${alone[@]}" --training.swap.min-age 6 --training.swap.max-age 84 --training.swap.gender-probability 0.1
    --training.data-shares 0.85 0.15 --training.augment.probability 0.8 --training.augment.no-cutout
    --training.augment.no-colour)
train critic 5.248 "${shifted[@]}" --training.warm-start "$runs/mean" --training.lr-generator 1e-12 \
    --training.lr-discriminator 4e-4 --training.lr-ramp-kimg 0.1 --training.loss.age 0 --training.loss.gender 0 \
    --training.swap.identity-features 0
sixth=("${shifted[@]}" --training.lr-ramp-kimg 0.2 --training.lr-generator 1e-4 --training.loss.age 10
    --training.swap.identity-features 2.5 --training.swap.likeness 1.5 --training.ema-kimg 2)
train sixth 4 "${sixth[@]}" --training.warm-start "$runs/critic/weights" --training.loss.gan 1.5 --training.swap.identity 1
train seventh 3 "${sixth[@]}" --training.warm-start "$runs/sixth/weights" --training.loss.gan 2
python examples/ship_bundle.py "$runs/seventh/bundle" platform/capricious/model/default --strength 1.35
