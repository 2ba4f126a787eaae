"""Random inputs and states. Keys are not of unit length, so that nothing can lean on it; no start is zero."""

import numpy as np

RANGES = {"ns_rate": (0.02, 0.3), "threshold": (0.2, 2.0), "coefficients": (0.3, 1.2)}
# Gates that have two ends, and may be drawn there.
BOUNDED = ("retain", "momentum", "rate")


def draw_inputs(rng, rule, tokens, edges, rate):
    """With `edges`, every other value of the bounded gates is 0 or the largest, the ends of its range; with "inner"
    rates stay inside, for rules that know no gradient where a memory is zero. `rate` is the largest rate."""
    inputs = {}
    for name, shape in rule.inputs.items():
        size = (tokens, *shape)
        word = name.rstrip("0123456789")
        if word in ("k", "q", "replacement"):
            inputs[name] = rng.normal(size=size) / np.sqrt(*shape)
        elif word in ("x", "v", "target"):
            inputs[name] = rng.normal(size=size)
        elif word == "window":
            inputs[name] = rng.uniform(0.05, 0.95, size=size) * rate / shape[0]
        elif word in BOUNDED:
            inputs[name] = rng.uniform(0.05, 0.95, size=size)
            if edges is True or (edges and word != "rate"):
                inputs[name][::2] = rng.integers(0, 2, size=inputs[name][::2].shape)
            if word == "rate":
                inputs[name] *= rate
        else:
            inputs[name] = rng.uniform(*RANGES[word], size=size)
    return inputs


def draw_state(rng, rule):
    return {name: draw_tensor(rng, rule.start, name, shape) for name, shape in rule.state.items()}


def draw_tensor(rng, start, name, shape):
    if name == "taken":
        return rng.integers(1, 5, size=shape).astype(float)
    x = rng.normal(size=shape)
    if name == "P":
        return x @ x.T / shape[0] + 0.5 * np.eye(*shape)
    if name in ("shrink", "ns_rate", "window_threshold", "written"):
        return rng.uniform(0.2, 2.0, size=shape)
    if name.startswith("step_"):
        return 0.1 * x
    if name.startswith("S_"):
        return 0.3 * x / np.sqrt(shape[-1])
    if name.startswith("window_"):
        return x / np.sqrt(shape[-1])
    if start == "unit":
        return x / np.linalg.norm(x, axis=0)
    if start == "positive":
        x = np.exp(0.5 * x)
        return shape[-1] * x / x.sum(axis=-1, keepdims=True)
    # Deep memories are drawn as they start, by their fan-in.
    return x / np.sqrt(shape[-1]) if name[-1].isdigit() else 0.5 * x
