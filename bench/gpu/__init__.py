"""Figures of the Wan models on GPUs, each part one short run: `python -m bench.gpu PART --out DIR`.

Weights are random: true sizes and costs, no picture. Medians; ratios are of one run. Needs torch and msgspec
alone; encoding is left out where PyAV isn't there, NCCL where nccl4py isn't.
"""
