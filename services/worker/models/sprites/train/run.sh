#!/bin/sh
# Trains sprites from nothing to weights.safetensors, as the shipped weights were: four stages by time, on one GPU.
# Run from the repository's root; needs torch with CUDA and safetensors. Stage results go to $1 (default: .train).
set -eu
out=${1:-.train}
train=services.worker.models.sprites.train
mkdir -p "$out"
python3 -m $train.train_autoencoder --seconds 160 --seed 1 --out "$out/ae0.safetensors"
python3 -m $train.train_autoencoder --seconds 235 --seed 1 --peak 1.5e-3 --start "$out/ae0.safetensors" \
    --out "$out/ae.safetensors"
python3 -m $train.train_transformer --autoencoder "$out/ae.safetensors" --compile --seconds 265 --seed 2 \
    --clips 12000 --peak 1.5e-3 --out "$out/t1.safetensors"
python3 -m $train.train_transformer --autoencoder "$out/ae.safetensors" --compile --seconds 460 --seed 2 \
    --clips 16000 --peak 1.3e-3 --floor 0.08 --plain 0.72 --depth 3 --start "$out/t1.safetensors" \
    --out "$out/t2.safetensors"
python3 -m $train.train_transformer --autoencoder "$out/ae.safetensors" --compile --seconds 350 --seed 5 \
    --clips 12000 --peak 7e-4 --floor 0 --depth 4 --start "$out/t2.safetensors" --out "$out/t3.safetensors"
python3 -m $train.pack "$out/ae.safetensors" "$out/t3.safetensors" "$out/weights.safetensors"
