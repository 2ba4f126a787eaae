"""Rules that are not settings of the generic one (spec A.7, B.8 to B.10), each one function that builds it.

A rule says what a token brings (`inputs`) and what is remembered (`state`), name and shape of each, and what a token
does: `token(state, x, pos)` gives the state after it and its read."""

from dataclasses import dataclass
from typing import Callable

import jax
import jax.numpy as jnp

from losses import BIASES, norm
from miras import knob
from self_modifying import self_modifying
from structures import STRUCTURES, layer_norm


@dataclass
class Rule:
    inputs: dict
    state: dict
    token: Callable
    # What its memory starts as: "plain" for any numbers, "unit" for columns of unit length, "positive" for rows of
    # positive numbers that sum to their length.
    start: str = "plain"
    # What a token reads of a state, for rules that others ask.
    read: Callable = None


def association(dk, dv):
    return {"k": (dk,), "v": (dv,), "q": (dk,)}


def matrix_rule(dk, dv, gates, write, tensors=("W",)):
    """A matrix that is read as y = W q after every write."""

    def read(state, x):
        return state["W"] @ x["q"]

    def token(state, x, pos):
        state = write(state, x)
        return state, read(state, x)

    return Rule(association(dk, dv) | gates, {name: (dv, dk) for name in tensors}, token, read=read)


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


def paced(dk, dv, rule="gated_delta", period=8):
    """A matrix rule that changes once per period, by the mean of what its tokens would have changed alone."""
    inner = OWN[rule](dk, dv)
    names = tuple(inner.state)

    def token(state, x, pos):
        now = {name: state[name] for name in names}
        alone, _ = inner.token(now, x, pos // period)
        error = {name: state[f"error_{name}"] + alone[name] - now[name] for name in names}
        if pos % period == period - 1:
            now = {name: now[name] + error[name] / period for name in names}
            error = {name: jnp.zeros_like(error[name]) for name in names}
        return now | {f"error_{name}": error[name] for name in names}, now["W"] @ x["q"]

    state = inner.state | {f"error_{name}": shape for name, shape in inner.state.items()}
    return Rule(inner.inputs, state, token)


def surprise_gated(dk, dv, rule="gated_delta", signal="norm", threshold=0.5):
    """A rule that takes the tokens that surprise, and knows nothing of the others. A rule with chunks counts what it has
    taken, in a number below 2^20 and another one of multiples."""
    settings = {"name": rule} if isinstance(rule, str) else dict(rule)
    chunked = settings.get("chunk", 1) > 1
    inner = OWN[settings.pop("name")](dk, dv, **settings)
    names, late = tuple(inner.state), 1 / 1024

    def token(state, x, pos):
        memory = {name: state[name] for name in names}
        if chunked:
            pos = int(jax.lax.stop_gradient(state["taken"][0] + 2**20 * state["taken"][1]))
        alone, _ = inner.token(memory, x, pos)
        if signal == "norm":
            surprise = jnp.sqrt(sum(jnp.sum((alone[name] - memory[name]) ** 2) for name in names))
        else:
            surprise = 0.5 * jnp.sum((inner.read(memory, x | {"q": x["k"]}) - x["v"]) ** 2)
        opens = bool(jax.lax.stop_gradient(surprise) >= threshold)
        memory = alone if opens else memory
        state = memory | {"written": state["written"] + late * (jnp.array([opens, 1.0]) - state["written"])} | {
            name: state[name] + jnp.array([float(opens), 0.0]) for name in state if name == "taken"
        }
        return state, inner.read(memory, x)

    counts = {"written": (2,)} | ({"taken": (2,)} if chunked else {})
    return Rule(inner.inputs, inner.state | counts, token, inner.start)


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
    # Slots that are not retracted never fade: they would lose their direction.
    kept = lambda x: x["retain"] if retract else 1.0

    def exact(state, x):
        through = lambda s: OBJECTIVES[variant](unit_columns(s), x["k"], x["v"])
        s = kept(x) * state["S"] - x["rate"] * jax.grad(through)(state["S"])
        return {"S": unit_columns(s) if retract else s}

    def frozen(state, x, pos):
        """Each slot moves linearly, with coefficients from the chunk start: those of one exact step."""
        base = state["S"] if pos % chunk == 0 else state["anchor_S"]
        phi, k, v = unit_columns(base), x["k"], x["v"]
        h = v - phi @ k if variant == "decoding" else v
        code = k - phi.T @ v if variant == "encoding" else k
        length = jax.vmap(norm, in_axes=1)(base)
        gate = kept(x) - x["rate"] * code * (phi.T @ h) / length**2
        s = gate * state["S"] + jnp.outer(h, x["rate"] * code / length)
        if retract and (pos + 1) % chunk == 0:
            s = unit_columns(s)
        return {"S": s, "anchor_S": base}

    def read(state, x):
        return unit_columns(state["S"]) @ x["q"]

    def token(state, x, pos):
        state = exact(state, x) if chunk == 1 else frozen(state, x, pos)
        return state, read(state, x)

    tensors = ["S"] + ["anchor_S"] * (chunk > 1)
    gates = {"retain": (), "rate": ()} if retract else {"rate": ()}
    return Rule(association(dk, dv) | gates, {name: (dv, dk) for name in tensors}, token, "unit", read)


# Trellis (spec B.10): two memories Mk [m, dk], Mv [m, dv] that compress keys and values into one latent target.

CODES = {
    "ln_silu": lambda z: layer_norm(jax.nn.silu(z)),
    "l2_silu": lambda z: jax.nn.silu(z) / jnp.sqrt(jnp.sum(jax.nn.silu(z) ** 2) + 1e-6),
    "identity": lambda z: z,
}


def trellis(dk, dv, slots=None, write="ln_silu", read="ln_silu", out="identity", chunk=1, sweeps=0):
    slots = slots or dk
    # A code depends on the writes before it in its chunk alone, so chunk - 1 sweeps over them are exact.
    frozen = chunk > 1 and sweeps == 0

    def loss(m, w, target):
        return 0.5 * jnp.sum((CODES[write](m @ w) - target) ** 2)

    def token(state, x, pos):
        state = dict(state)
        for name, w in [("Mk", x["k"]), ("Mv", x["v"])]:
            if frozen and pos % chunk == 0:
                state["anchor_" + name] = state[name]
            at = state["anchor_" + name] if frozen else state[name]
            state[name] = x["retain"] * state[name] - x["rate"] * jax.grad(loss)(at, w, x["target"])
        return state, CODES[out](state["Mv"].T @ CODES[read](state["Mk"] @ x["q"]))

    shapes = {"Mk": (slots, dk), "Mv": (slots, dv)}
    anchors = {"anchor_" + name: shape for name, shape in shapes.items() if frozen}
    gates = {"retain": (), "rate": (), "target": (slots,)}
    return Rule(association(dk, dv) | gates, shapes | anchors, token)


# TNT (spec B.8): one global memory V with long chunks, and local ones that start again with every shard.


def unit_gram(gram, u):
    return gram + jnp.outer(u, u)


def projector(gram, u):
    """K^T (K K^T + ridge I)^-1 K with one more row u in K. It is I - A^-1 for A = I + K^T K / ridge."""
    one = jnp.eye(len(u))
    return one - jnp.linalg.inv(jnp.linalg.inv(one - gram) + jnp.outer(u, u) / 1e-3)


def as_long(asked, q):
    return asked * norm(q) / jnp.sqrt(jnp.sum(asked * asked) + 1e-6)


# What takes a key in, and what becomes of the product with a query.
PROJECTIONS = {
    "shard": (unit_gram, as_long),
    "shard_raw": (unit_gram, lambda asked, q: asked),
    "chunk": (unit_gram, lambda asked, q: asked),
    "orth": (projector, lambda asked, q: asked),
}


def tnt(dk, dv, structure="mlp", bias="l2", retain=False, global_chunk=2048, locals=(8, 16), shard=2048,
        projection="shard", shared_rate=False, shared_start=False):
    memory, bias = knob(STRUCTURES, structure), knob(BIASES, bias)
    shapes = memory.shapes(dk, dv)
    numbers = range(1, len(locals) + 1)
    weights = lambda state, prefix: {n: state[prefix + n] for n in shapes}
    copy = lambda state, target, source: {target + n: state[source + n] for n in shapes}
    rate = lambda i: "rate" if shared_rate or i == 0 else f"rate{i}"
    start = lambda i: "P_" if shared_start else f"P{i}_"
    gram = lambda i: f"gram{i}" if projection == "chunk" else "gram"

    def predict(w, x):
        return memory(w, x) + (x if memory.residual else 0)

    def step(state, prefix, x, i):
        loss = lambda w: bias.loss(predict(w, x["k"]), x["v"], None)
        g = jax.grad(loss)(weights(state, f"anchor_{prefix}"))
        return {prefix + n: x.get("retain", 1.0) * state[prefix + n] - x[rate(i)] * g[n] for n in shapes}

    def query(state, i, q):
        if projection == "none":
            return q
        return PROJECTIONS[projection][1](state[gram(i)] @ q, q)

    def token(state, x, pos):
        state, k, q = dict(state), x["k"], x["q"]
        if pos % global_chunk == 0:
            state |= copy(state, "anchor_V_", "V_")
        state |= step(state, "V_", x, 0)
        y = predict(weights(state, "anchor_V_"), q)
        for name in {gram(i): i for i in numbers} if projection != "none" else {}:
            every = locals[int(name[-1]) - 1] if projection == "chunk" else shard
            before = jnp.zeros((dk, dk)) if pos % every == 0 else state[name]
            state[name] = PROJECTIONS[projection][0](before, k / norm(k))
        for i, chunk in zip(numbers, locals):
            own = f"L{i}_"
            if pos % shard == 0:
                state |= copy(state, own, start(i))
            if pos % chunk == 0:
                state |= copy(state, f"anchor_{own}", own)
            state |= step(state, own, x, i)
            y = y + predict(weights(state, own), query(state, i, q))
        return state, y

    inputs = association(dk, dv) | ({"retain": ()} if retain else {}) | {rate(i): () for i in range(len(locals) + 1)}
    prefixes = ["V_"] + ["anchor_V_"] * (global_chunk > 1)
    for i, chunk in zip(numbers, locals):
        prefixes += [start(i), f"L{i}_"] + [f"anchor_L{i}_"] * (chunk > 1)
    state = {prefix + n: shape for prefix in prefixes for n, shape in shapes.items()}
    if projection != "none":
        state |= {gram(i): (dk, dk) for i in numbers}
    return Rule(inputs, state, token)


OWN = {
    "linear_attention": linear_attention,
    "delta": delta,
    "gated_delta": gated_delta,
    "decay_delta": decay_delta,
    "titans": titans,
    "paced": paced,
    "surprise_gated": surprise_gated,
    "oja": oja,
    "hgrn2": hgrn2,
    "rwkv7": rwkv7,
    "lattice": lattice,
    "trellis": trellis,
    "tnt": tnt,
    "self_modifying": lambda dk, dv, **settings: Rule(*self_modifying(dk, dv, **settings)),
}
