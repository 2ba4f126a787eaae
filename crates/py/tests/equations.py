"""The memory rules as small float64 loops, written from their equations. Nothing here knows the Rust code.

`W` is the memory `[dv, dk]`, read as `y = W q` after the token is written. `retain` is the fraction that is kept,
`rate` the inner step size, `momentum` the decay of the step `S`.
"""

import numpy as np


def linear_attention(state, x):
    """Hebbian: W' = retain W + rate v k^T."""
    return {"W": x["retain"] * state["W"] + x["rate"] * np.outer(x["v"], x["k"])}


def delta(state, x):
    """W' = W - rate (W k - v) k^T."""
    w = state["W"]
    return {"W": w - x["rate"] * np.outer(w @ x["k"] - x["v"], x["k"])}


def gated_delta(state, x):
    """The delta rule on the decayed memory: Wd = retain W, W' = Wd - rate (Wd k - v) k^T."""
    return delta({"W": x["retain"] * state["W"]}, x)


def decay_delta(state, x):
    """The error before the decay: W' = retain W - rate (W k - v) k^T."""
    w = state["W"]
    return {"W": x["retain"] * w - x["rate"] * np.outer(w @ x["k"] - x["v"], x["k"])}


def titans(state, x):
    """S' = momentum S - rate (W k - v) k^T, W' = retain W + S'."""
    w = state["W"]
    s = x["momentum"] * state["S"] - x["rate"] * np.outer(w @ x["k"] - x["v"], x["k"])
    return {"W": x["retain"] * w + s, "S": s}


EQUATIONS = {f.__name__: f for f in (linear_attention, delta, gated_delta, decay_delta, titans)}


def run(rule, inputs, state):
    """One head, token by token: the reads `[T, dv]` and the end state."""
    reads = []
    for t in range(len(inputs["q"])):
        x = {name: value[t] for name, value in inputs.items()}
        state = EQUATIONS[rule](state, x)
        reads.append(state["W"] @ x["q"])
    return np.array(reads), state


def gradient(rule, inputs, state, dy, dstate):
    """The gradient of sum(dy y) + sum(dstate end), number by number, by complex steps.

    Every rule is a polynomial of its numbers, so the imaginary part of f(x + ih) is h f'(x) without cancellation, and
    h can be so small that nothing else remains: exact to rounding, unlike a difference.
    """
    step = 1e-100

    def objective(inputs, state):
        y, end = run(rule, inputs, state)
        return np.sum(dy * y) + sum(np.sum(dstate[name] * end[name]) for name in end)

    result = {"state": {}}
    for group, out in ((inputs, result), (state, result["state"])):
        for name, value in group.items():
            slope = np.zeros_like(value)
            for at in np.ndindex(value.shape):
                moved = value.astype(complex)
                moved[at] += 1j * step
                if group is inputs:
                    slope[at] = objective({**inputs, name: moved}, state).imag / step
                else:
                    slope[at] = objective(inputs, {**state, name: moved}).imag / step
            out[name] = slope
    return result
