"""Turns golden vectors in NumPy's npz form into safetensors, float64, names unchanged.

    python convert.py FOLDER_WITH_NPZ OUT_FOLDER

Of `titans_and_hope.npz` it takes the matrix memory without chunks (`lmm_lin_C1_*` and its inputs), of the
others the rules that the registry has.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RULES = ["linear_attention", "delta", "gated_delta", "decay_delta", "titans"]
PARTS = {"titans_and_hope": ("lmm_lin_in_", "lmm_lin_C1_post_", "lmm_lin_C1_pre_")}


def convert(source, target, prefixes=("",)):
    arrays = np.load(source)
    names = [name for name in arrays.files if name.startswith(prefixes)]
    save_file({name: np.ascontiguousarray(arrays[name], np.float64) for name in names}, target)
    print(f"{target.name}: {len(names)} arrays")


def main(source, target):
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for name in RULES:
        convert(source / f"{name}.npz", target / f"{name}.safetensors")
    for name, prefixes in PARTS.items():
        convert(source / f"{name}.npz", target / f"{name}.safetensors", prefixes)


if __name__ == "__main__":
    main(*sys.argv[1:])
