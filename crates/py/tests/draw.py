"""Random inputs for any registered rule."""

import hecate
import numpy as np

RULES = {row["name"]: row for row in hecate.rules()}


def row(rule, dk, dv):
    return next(r for r in hecate.rules(dk, dv) if r["name"] == rule)


# Rules with a matrix that starts at zero take gates anywhere in their range; others are drawn near their defaults,
# where a deep memory is no chaos.
ANYWHERE = ("linear_attention", "delta", "gated_delta", "decay_delta", "titans")


def widths(rule, dk, dv):
    """The widths themselves, or keys as wide as values for a rule that takes no others."""
    try:
        hecate.memory.start(rule, dk, dv)
    except ValueError:
        return dv, dv
    return dk, dv


def inputs(rule, tokens, dk, dv, seed=0, lead=(), dtype=np.float64):
    """Keys and queries of unit length, gates inside their range."""
    rng = np.random.default_rng(seed)
    result = {}
    for entry in row(rule, dk, dv)["inputs"]:
        shape = (*lead, tokens) if entry["kind"] == "scalar" else (*lead, tokens, entry["width"])
        if entry["default"] is None:
            value = rng.normal(size=shape)
        elif rule in ANYWHERE:
            value = rng.uniform(0.05, 0.95, size=shape)
        else:
            value = entry["default"] * rng.uniform(0.8, 1.0, size=shape)
        if entry["kind"] == "key" and entry["default"] is None:
            value /= np.linalg.norm(value, axis=-1, keepdims=True)
        result[entry["name"]] = value.astype(dtype)
    return result


def state(rule, dk, dv, seed=0, lead=(), dtype=np.float64):
    """Some state; for rules that do not start at zero one that has taken a few tokens."""
    if rule not in ANYWHERE:
        return warm(rule, dk, dv, seed, lead, dtype)
    rng = np.random.default_rng(seed + 1000)
    tensors = row(rule, dk, dv)["state"]
    return {t["name"]: (0.5 * rng.normal(size=(*lead, *t["shape"]))).astype(dtype) for t in tensors}


def warm(rule, dk, dv, seed, lead, dtype):
    batch, heads = lead or (1, None)
    start = hecate.memory.start(rule, dk, dv, heads=heads, batch=batch, seed=seed)
    _, end = hecate.memory.forward(rule, inputs(rule, 8, dk, dv, seed + 500, lead), start)
    return {name: x.astype(dtype) for name, x in end.items() if name != "pos"}


def cotangents(rule, tokens, dk, dv, seed=0, lead=(), dtype=np.float64):
    """`dy` and `dstate`."""
    rng = np.random.default_rng(seed + 2000)
    dy = rng.normal(size=(*lead, tokens, dv)).astype(dtype)
    tensors = row(rule, dk, dv)["state"]
    return dy, {t["name"]: (0.5 * rng.normal(size=(*lead, *t["shape"]))).astype(dtype) for t in tensors}
