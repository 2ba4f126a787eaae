"""Random inputs for any registered rule."""

import hecate
import numpy as np

RULES = {row["name"]: row for row in hecate.rules()}


def row(rule, dk, dv):
    return next(r for r in hecate.rules(dk, dv) if r["name"] == rule)


def inputs(rule, tokens, dk, dv, seed=0, lead=(), dtype=np.float64):
    """Keys and queries of unit length, gates inside their range."""
    rng = np.random.default_rng(seed)
    result = {}
    for entry in row(rule, dk, dv)["inputs"]:
        if entry["kind"] == "scalar":
            value = rng.uniform(0.05, 0.95, size=(*lead, tokens))
        else:
            value = rng.normal(size=(*lead, tokens, entry["width"]))
        if entry["kind"] == "key":
            value /= np.linalg.norm(value, axis=-1, keepdims=True)
        result[entry["name"]] = value.astype(dtype)
    return result


def state(rule, dk, dv, seed=0, lead=(), dtype=np.float64):
    rng = np.random.default_rng(seed + 1000)
    tensors = row(rule, dk, dv)["state"]
    return {t["name"]: (0.5 * rng.normal(size=(*lead, *t["shape"]))).astype(dtype) for t in tensors}


def cotangents(rule, tokens, dk, dv, seed=0, lead=(), dtype=np.float64):
    """`dy` and `dstate`."""
    rng = np.random.default_rng(seed + 2000)
    dy = rng.normal(size=(*lead, tokens, dv)).astype(dtype)
    return dy, state(rule, dk, dv, seed + 3000, lead, dtype)
