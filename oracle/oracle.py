"""Golden vectors for the memory rules, from their equations alone.

Nothing here knows the Rust code. Each rule is its inner loss, the gradient of that loss by automatic
differentiation, and the recurrence around it; the gradients of the whole stream come from differentiating
that recurrence once more. Everything is float64.

    python oracle.py OUT_FOLDER

writes one `<rule>.safetensors` per rule. Each file holds several cases; a tensor is called `case.name`:
`in.*` inputs `[T, width]` (gates `[T]`), `state0.*` and `end.*` the state, `Y` the reads `[T, dv]`, `dY` and
`dEnd.*` cotangents, `din.*` and `dstate0.*` the gradients of sum(dY * Y) + sum(dEnd * end).
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

jax.config.update("jax_enable_x64", True)

T, DK, DV_NARROW = 16, 8, 5


# Inner losses: how badly the memory W [dv, dk] answers the key k with the value v.


def l2(w, k, v):
    return 0.5 * jnp.sum((w @ k - v) ** 2)


def dot(w, k, v):
    return -jnp.vdot(w @ k, v)


l2_gradient, dot_gradient = jax.grad(l2), jax.grad(dot)


# Rules: (state, token) -> state. Every one of them is read as y = W q after the token is written.


def linear_attention(state, x):
    """Hebbian: descend the dot-product loss. [LinearAttention v3 eq.18] with a decay."""
    w = state["W"]
    return {"W": x["retain"] * w - x["rate"] * dot_gradient(w, x["k"], x["v"])}


def delta(state, x):
    """Descend the squared error, keep everything."""
    w = state["W"]
    return {"W": w - x["rate"] * l2_gradient(w, x["k"], x["v"])}


def gated_delta(state, x):
    """Decay first, then take the gradient at the decayed memory."""
    w = x["retain"] * state["W"]
    return {"W": w - x["rate"] * l2_gradient(w, x["k"], x["v"])}


def decay_delta(state, x):
    """Take the gradient at the memory as it was, then decay: Titans without momentum."""
    w = state["W"]
    return {"W": x["retain"] * w - x["rate"] * l2_gradient(w, x["k"], x["v"])}


def titans(state, x):
    """Momentum on the surprise, then decay and step."""
    w = state["W"]
    s = x["momentum"] * state["S"] - x["rate"] * l2_gradient(w, x["k"], x["v"])
    return {"W": x["retain"] * w + s, "S": s}


# name: (rule, gates, state tensors)
RULES = {
    "linear_attention": (linear_attention, ["retain", "rate"], ["W"]),
    "delta": (delta, ["rate"], ["W"]),
    "gated_delta": (gated_delta, ["retain", "rate"], ["W"]),
    "decay_delta": (decay_delta, ["retain", "rate"], ["W"]),
    "titans": (titans, ["retain", "rate", "momentum"], ["W", "S"]),
}


def run(rule, inputs, state):
    """The stream, token by token: the reads and the end state."""
    reads = []
    for t in range(T):
        x = {name: value[t] for name, value in inputs.items()}
        state = rule(state, x)
        reads.append(state["W"] @ x["q"])
    return jnp.stack(reads), state


def draw(rng, gates, tensors, dv, edges):
    """Random inputs and state. Keys are not of unit length, so that nothing can lean on it. With `edges`,
    every other gate value is 0 or 1, the ends of its range."""
    inputs = {
        "k": rng.normal(size=(T, DK)) / np.sqrt(DK),
        "v": rng.normal(size=(T, dv)),
        "q": rng.normal(size=(T, DK)) / np.sqrt(DK),
    }
    for gate in gates:
        value = rng.uniform(0.05, 0.95, size=T)
        if edges:
            value[::2] = rng.integers(0, 2, size=T // 2)
        inputs[gate] = value
    state = {name: 0.5 * rng.normal(size=(dv, DK)) for name in tensors}
    return inputs, state


def case(rule, gates, tensors, rng, dv, edges):
    """One case as a flat dict of arrays."""
    inputs, state = draw(rng, gates, tensors, dv, edges)
    dy = rng.normal(size=(T, dv))
    dend = {name: rng.normal(size=(dv, DK)) for name in tensors}

    def objective(inputs, state):
        reads, end = run(rule, inputs, state)
        return jnp.sum(dy * reads) + sum(jnp.sum(dend[name] * end[name]) for name in tensors)

    reads, end = run(rule, inputs, state)
    dinputs, dstate = jax.grad(objective, argnums=(0, 1))(inputs, state)
    out = {"Y": reads, "dY": dy}
    for group, values in [("in", inputs), ("din", dinputs), ("state0", state), ("end", end)]:
        out |= {f"{group}.{name}": value for name, value in values.items()}
    for group, values in [("dEnd", dend), ("dstate0", dstate)]:
        out |= {f"{group}.{name}": value for name, value in values.items()}
    return out


CASES = {
    "square": dict(dv=DK, edges=False),
    "narrow": dict(dv=DV_NARROW, edges=False),
    "square_edges": dict(dv=DK, edges=True),
    "narrow_edges": dict(dv=DV_NARROW, edges=True),
}


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, (rule, gates, tensors)) in enumerate(RULES.items()):
        arrays = {}
        for index, (label, options) in enumerate(CASES.items()):
            rng = np.random.default_rng([number, index])
            made = case(rule, gates, tensors, rng, **options)
            arrays |= {f"{label}.{key}": np.ascontiguousarray(value, np.float64) for key, value in made.items()}
        save_file(arrays, folder / f"{name}.safetensors")
        print(f"{name}: {len(arrays)} arrays, {len(CASES)} cases")


if __name__ == "__main__":
    main(sys.argv[1])
