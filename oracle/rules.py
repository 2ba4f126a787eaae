"""Rules that are not settings of the generic one (spec A.7, B.8 to B.10), each one function that builds it.

A rule says what a token brings (`inputs`) and what is remembered (`state`), name and shape of each, and what a token
does: `token(state, x, pos)` gives the state after it and its read."""

from dataclasses import dataclass
from typing import Callable

import jax
import jax.numpy as jnp

from losses import norm
from structures import Mlp, layer_norm


@dataclass
class Rule:
    inputs: dict
    state: dict
    token: Callable
    # What its memory starts as: "plain" for any numbers, "unit" for columns of unit length, "positive" for rows of
    # positive numbers that sum to their length.
    start: str = "plain"


def association(dk, dv):
    return {"k": (dk,), "v": (dv,), "q": (dk,)}


def matrix_rule(dk, dv, gates, write, tensors=("W",)):
    """A matrix that is read as y = W q after every write."""

    def token(state, x, pos):
        state = write(state, x)
        return state, state["W"] @ x["q"]

    return Rule(association(dk, dv) | gates, {name: (dv, dk) for name in tensors}, token)


# Inner losses: how badly the memory W [dv, dk] answers the key k with the value v.


def l2(w, k, v):
    return 0.5 * jnp.sum((w @ k - v) ** 2)


def dot(w, k, v):
    return -jnp.vdot(w @ k, v)


l2_gradient, dot_gradient = jax.grad(l2), jax.grad(dot)


def linear_attention(dk, dv):
    """Hebbian: descend the dot-product loss. [LinearAttention v3 eq.18] with a decay."""

    def write(state, x):
        w = state["W"]
        return {"W": x["retain"] * w - x["rate"] * dot_gradient(w, x["k"], x["v"])}

    return matrix_rule(dk, dv, {"retain": (), "rate": ()}, write)


def delta(dk, dv):
    """Descend the squared error, keep everything."""

    def write(state, x):
        w = state["W"]
        return {"W": w - x["rate"] * l2_gradient(w, x["k"], x["v"])}

    return matrix_rule(dk, dv, {"rate": ()}, write)


def gated_delta(dk, dv):
    """Decay first, then take the gradient at the decayed memory."""

    def write(state, x):
        w = x["retain"] * state["W"]
        return {"W": w - x["rate"] * l2_gradient(w, x["k"], x["v"])}

    return matrix_rule(dk, dv, {"retain": (), "rate": ()}, write)


def decay_delta(dk, dv):
    """Take the gradient at the memory as it was, then decay: Titans without momentum."""

    def write(state, x):
        w = state["W"]
        return {"W": x["retain"] * w - x["rate"] * l2_gradient(w, x["k"], x["v"])}

    return matrix_rule(dk, dv, {"retain": (), "rate": ()}, write)


def titans(dk, dv):
    """Momentum on the surprise, then decay and step."""

    def write(state, x):
        w = state["W"]
        s = x["momentum"] * state["S"] - x["rate"] * l2_gradient(w, x["k"], x["v"])
        return {"W": x["retain"] * w + s, "S": s}

    return matrix_rule(dk, dv, {"retain": (), "rate": (), "momentum": ()}, write, ("W", "S"))


def oja(dk, dv):
    """Similarity against the squared length of what the value retrieves backwards."""

    def loss(w, k, v):
        return -jnp.vdot(w @ k, v) + 0.5 * jnp.sum((w.T @ v) ** 2)

    def write(state, x):
        w = state["W"]
        return {"W": x["retain"] * w - x["rate"] * jax.grad(loss)(w, x["k"], x["v"])}

    return matrix_rule(dk, dv, {"retain": (), "rate": ()}, write)


def hgrn2(dk, dv):
    """The key is what the decay of each key channel leaves free. It brings no key of its own."""

    def write(state, x):
        a = x["retain"]
        return {"W": state["W"] * a - dot_gradient(state["W"], 1 - a, x["v"])}

    rule = matrix_rule(dk, dv, {"retain": (dk,)}, write)
    del rule.inputs["k"]
    return rule


def rwkv7(dk, dv):
    """Decay per key channel, removal under one key, writing under another."""

    def write(state, x):
        w, k = state["W"], x["k"]
        removed = jnp.outer(w @ k, x["rate"] * k)
        return {"W": w * x["retain"] - removed + jnp.outer(x["v"], x["replacement"])}

    return matrix_rule(dk, dv, {"retain": (dk,), "rate": (dk,), "replacement": (dk,)}, write)


# Lattice (spec B.9): the columns of S [dv, dk] are slots of unit length; keys and queries are codes over slots.


def unit_columns(s):
    return s / jax.vmap(norm, in_axes=1)(s)


OBJECTIVES = {
    "decoding": lambda phi, k, v: 0.5 * jnp.sum((phi @ k - v) ** 2),
    "encoding": lambda phi, k, v: 0.5 * jnp.sum((phi.T @ v - k) ** 2),
    "similarity": lambda phi, k, v: -jnp.vdot(k, phi.T @ v),
}


def lattice(dk, dv, variant="decoding", retract=True, chunk=1):
    def exact(state, x):
        through = lambda s: OBJECTIVES[variant](unit_columns(s), x["k"], x["v"])
        s = x["retain"] * state["S"] - x["rate"] * jax.grad(through)(state["S"])
        return {"S": unit_columns(s) if retract else s}

    def frozen(state, x, pos):
        """Each slot moves linearly, with coefficients from the chunk start: those of one exact step."""
        base = state["S"] if pos % chunk == 0 else state["anchor_S"]
        phi, k, v = unit_columns(base), x["k"], x["v"]
        h = v - phi @ k if variant == "decoding" else v
        code = k - phi.T @ v if variant == "encoding" else k
        length = jax.vmap(norm, in_axes=1)(base)
        gate = x["retain"] - x["rate"] * code * (phi.T @ h) / length**2
        s = gate * state["S"] + jnp.outer(h, x["rate"] * code / length)
        if retract and (pos + 1) % chunk == 0:
            s = unit_columns(s)
        return {"S": s, "anchor_S": base}

    def token(state, x, pos):
        state = exact(state, x) if chunk == 1 else frozen(state, x, pos)
        return state, unit_columns(state["S"]) @ x["q"]

    tensors = ["S"] + ["anchor_S"] * (chunk > 1)
    gates = {"retain": (), "rate": ()}
    return Rule(association(dk, dv) | gates, {name: (dv, dk) for name in tensors}, token, "unit")


# Trellis (spec B.10): two memories Mk [m, dk], Mv [m, dv] that compress keys and values into one latent target.

ACTIVATIONS = {"ln_silu": lambda z: layer_norm(jax.nn.silu(z)), "identity": lambda z: z}


def trellis(dk, dv, slots=16, code="ln_silu", out="identity", chunk=1):
    phi, out = ACTIVATIONS[code], ACTIVATIONS[out]

    def loss(m, w, target):
        return 0.5 * jnp.sum((phi(m @ w) - target) ** 2)

    def token(state, x, pos):
        state = dict(state)
        for name, w in [("Mk", x["k"]), ("Mv", x["v"])]:
            if chunk > 1 and pos % chunk == 0:
                state["anchor_" + name] = state[name]
            at = state["anchor_" + name] if chunk > 1 else state[name]
            state[name] = x["retain"] * state[name] - x["rate"] * jax.grad(loss)(at, w, x["target"])
        return state, out(state["Mv"].T @ phi(state["Mk"] @ x["q"]))

    shapes = {"Mk": (slots, dk), "Mv": (slots, dv)}
    anchors = {"anchor_" + name: shape for name, shape in shapes.items() if chunk > 1}
    gates = {"retain": (), "rate": (), "target": (slots,)}
    return Rule(association(dk, dv) | gates, shapes | anchors, token)


# TNT (spec B.8): one global memory V with long chunks, and local ones that start again with every shard.


def tnt(dk, dv, global_chunk=8, local_chunks=(4, 2), shard=8, projection="shard", renormalise=True, own_rates=True,
        structure=None):
    memory = structure or Mlp()
    shapes = memory.shapes(dk, dv)
    weights = lambda state, prefix: {n: state[prefix + n] for n in shapes}

    def predict(w, x):
        return memory(w, x) + (x if memory.residual else 0)

    def loss(w, k, v):
        return 0.5 * jnp.sum((predict(w, k) - v) ** 2)

    def step(state, prefix, anchor, x, rate):
        g = jax.grad(loss)(weights(state, anchor), x["k"], x["v"])
        return {prefix + n: state[prefix + n] - rate * g[n] for n in shapes}

    def token(state, x, pos):
        state, k, q = dict(state), x["k"], x["q"]
        if pos % global_chunk == 0:
            state |= {"anchor_V_" + n: state["V_" + n] for n in shapes}
        state |= step(state, "V_", "anchor_V_", x, x["rate"])
        y = predict(weights(state, "anchor_V_"), q)
        if pos % shard == 0:
            state["gram"] = jnp.zeros_like(state["gram"])
        state["gram"] = state["gram"] + jnp.outer(k, k) / norm(k) ** 2
        asked = state["gram"] @ q
        if renormalise:
            asked = asked * norm(q) / norm(asked)
        for i, chunk in enumerate(local_chunks, 1):
            local, anchor = f"L{i}_", f"anchor_L{i}_"
            if pos % shard == 0:
                state |= {local + n: state["P_" + n] for n in shapes}
            if pos % chunk == 0 or pos % shard == 0:
                state |= {anchor + n: state[local + n] for n in shapes}
            state |= step(state, local, anchor, x, x[f"rate{i}"] if own_rates else x["rate"])
            y = y + predict(weights(state, local), asked)
        return state, y

    rates = {"rate": ()} | {f"rate{i}": () for i, _ in enumerate(local_chunks, 1) if own_rates}
    state = {"gram": (dk, dk)}
    for i, _ in enumerate(local_chunks, 1):
        state |= {p + n: s for p in (f"L{i}_", f"anchor_L{i}_") for n, s in shapes.items()}
    state |= {p + n: s for p in ("V_", "anchor_V_", "P_") for n, s in shapes.items()}
    return Rule(association(dk, dv) | rates, state, token)


OWN = {
    "linear_attention": linear_attention,
    "delta": delta,
    "gated_delta": gated_delta,
    "decay_delta": decay_delta,
    "titans": titans,
    "oja": oja,
    "hgrn2": hgrn2,
    "rwkv7": rwkv7,
    "lattice": lattice,
    "trellis": trellis,
    "tnt": tnt,
}
