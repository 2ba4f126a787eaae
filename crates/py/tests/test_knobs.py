"""Settings of `miras` that no name stands for, against loops written from their equations; values and gradients."""

import hecate
import numpy as np
import pytest

TOKENS, DK, DV = 11, 5, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def window(x, state):
    """S' = momentum S - sum_i gamma_i (W k_i - v_i) k_i^T over the last tokens, W' = retain W + S'."""
    w, s, c = state["W"], state["S_W"], x["window"].shape[-1]
    for t in range(TOKENS):
        s = x["momentum"][t] * s
        for j in range(c):
            i = t - (c - 1) + j
            if i >= 0:
                s = s - x["window"][t, j] * np.outer(w @ x["k"][i] - x["v"][i], x["k"][i])
        w = x["retain"][t] * w + s
        yield w @ x["q"][t]


def anchored(x, state):
    """W' = retain W + (1 - retain) W_0 - rate (A k - v) k^T, with A the state at the start of a chunk of four."""
    w, start = state["W"], state["start_W"]
    for t in range(TOKENS):
        anchor = w if t % 4 == 0 else anchor
        error = anchor @ x["k"][t] - x["v"][t]
        w = x["retain"][t] * w + (1 - x["retain"][t]) * start - x["rate"][t] * np.outer(error, x["k"][t])
        yield w @ x["q"][t]


def perceptron(x, state):
    """W' = retain W - rate G for y = W1 silu(W2 k), two matrices and no norm."""
    w1, w2 = state["W1"], state["W2"]
    for t in range(TOKENS):
        a = w2 @ x["k"][t]
        s = sigmoid(a)
        error = w1 @ (a * s) - x["v"][t]
        slope = s + a * s * (1 - s)
        g1, g2 = np.outer(error, a * s), np.outer((w1.T @ error) * slope, x["k"][t])
        w1, w2 = x["retain"][t] * w1 - x["rate"][t] * g1, x["retain"][t] * w2 - x["rate"][t] * g2
        a = w2 @ x["q"][t]
        yield w1 @ (a * sigmoid(a))


PLAIN = {"name": "mlp", "layers": 2, "expansion": 2, "activation": "silu", "residual": False, "norm": False}
CASES = {
    "window": ({"name": "miras", "window": 3, "algorithm": "momentum"}, window, ["retain", "momentum"]),
    "anchored": ({"name": "miras", "retention": "l2_anchor", "chunk": 4}, anchored, ["retain", "rate"]),
    "perceptron": ({"name": "miras", "structure": PLAIN}, perceptron, ["retain", "rate"]),
}


def drawn(rule, gates):
    rng = np.random.default_rng(1)
    x = {name: rng.normal(size=(TOKENS, DK)) for name in "kvq"}
    x.update({name: rng.uniform(0.1, 0.9, size=TOKENS) for name in gates})
    if "window" in rule:
        x["window"] = rng.uniform(0.05, 0.3, size=(TOKENS, rule["window"]))
    start = hecate.memory.start(rule, DK, DV, seed=4)
    return x, {name: 0.3 * rng.normal(size=a.shape) if name in ("W", "S_W") else a for name, a in start.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reads_and_gradients_are_those_of_the_equation(case):
    rule, loop, gates = case
    x, state = drawn(rule, gates)
    if "start_W" in state:
        state["anchor_W"] = state["start_W"] = state["W"]
    y, _ = hecate.memory.forward(rule, x, state)
    assert np.max(np.abs(y - np.array(list(loop(x, state))))) <= 1e-12 * np.max(np.abs(y))
    dy = np.random.default_rng(2).normal(size=y.shape)
    got = hecate.memory.vjp(rule, x, dy, state)
    for name, value in x.items():
        slope = np.zeros_like(value)
        for at in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[at] += 1e-100j
            slope[at] = np.sum(dy * np.array(list(loop({**x, name: moved}, state)))).imag / 1e-100
        assert np.max(np.abs(got[name] - slope)) <= 1e-11 * np.max(np.abs(slope)), name
