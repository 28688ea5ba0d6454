"""Joins the two networks into the file the worker loads.

python -m services.worker.models.sprites.train.pack autoencoder transformer out
"""

from __future__ import annotations

import argparse

from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("autoencoder")
    parser.add_argument("transformer")
    parser.add_argument("out")
    options = parser.parse_args()
    joined = {f"autoencoder.{name}": t for name, t in load_file(options.autoencoder).items()}
    joined |= {f"transformer.{name}": t for name, t in load_file(options.transformer).items()}
    save_file(joined, options.out)


if __name__ == "__main__":
    main()
