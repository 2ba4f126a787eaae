"""Turns golden vectors in NumPy's npz form into safetensors, float64, names unchanged.

    python convert.py FOLDER_WITH_NPZ OUT_FOLDER

Every file but `titans_and_hope.npz` is about one rule, by its name. Of that one it takes the memories of Titans and
the self-referential ones.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# Files whose arrays are not those of one rule.
PARTS = {"titans_and_hope": ("lmm_lin_", "lmm_mlp2_", "lmm_mlp3_", "sr_")}


def convert(source, target, prefixes=("",)):
    arrays = np.load(source)
    names = [name for name in arrays.files if name.startswith(prefixes)]
    save_file({name: np.ascontiguousarray(arrays[name], np.float64) for name in names}, target)
    print(f"{target.name}: {len(names)} arrays")


def main(source, target):
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.npz")):
        convert(file, target / f"{file.stem}.safetensors", PARTS.get(file.stem, ("",)))


if __name__ == "__main__":
    main(*sys.argv[1:])
