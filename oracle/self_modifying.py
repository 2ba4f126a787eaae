"""Self-referential Titans: memories that make their own keys, values, gates and targets (spec B.4)."""

import jax
import jax.numpy as jnp

from losses import BIASES
from miras import knob
from structures import ACTIVATIONS, STRUCTURES

MLP = {"name": "mlp", "layers": 2, "expansion": 1, "activation": "silu", "residual": True, "norm": True}
GATES = ("rate", "retain")


def unit(x):
    return x / jnp.sqrt(jnp.sum(x * x) + 1e-6)


TARGETS = {"soft": lambda t: t / jnp.sqrt(1 + jnp.mean(t * t)), "raw": lambda t: t}


def layer_inputs(structure, w, x):
    """What the product of each tensor takes, the first layer last."""
    names = list(w)
    inputs = {names[-1]: x}
    for name, below in zip(names[-2::-1], names[:0:-1]):
        inputs[name] = ACTIVATIONS[structure.activation](w[below] @ inputs[below])
    return inputs


def self_modifying(dk, dv, structure=MLP, bias="l2", precond="per_layer", targets="soft", chunk=16, chunk_memory=64,
                   momentum="none", adaptive_q=False, rate_max=None, rate_scale="auto", rate_bias=None,
                   retain_bias=4.0):
    wide, bias, soft = knob(STRUCTURES, structure), knob(BIASES, bias), TARGETS[targets]
    linear = not hasattr(wide, "layers")
    if linear:
        narrow = wide
    else:
        narrow = knob(STRUCTURES, structure | {"expansion": wide.expansion * dk, "residual": False, "norm": False})
    most = rate_max or (1.0 if linear else 0.1)
    if rate_bias is None:
        rate_bias = -3.0 if linear else 0.0
    roles = ["k", "v"] + ["q"] * adaptive_q + ["rate", "retain", "mem"]
    chunks = {role: chunk_memory if role == "mem" else chunk for role in roles}
    net = lambda role: narrow if role in GATES else wide
    shapes = {role: net(role).shapes(dk, 1 if role in GATES else dv) for role in roles}

    def predict(role, w, x):
        return net(role)(w, x) + (x if net(role).residual else 0)

    def weights(state, prefix, role):
        return {n: state[f"{prefix}{role}_{n}"] for n in shapes[role]}

    def anchors(state, role):
        return weights(state, "anchor_" if chunks[role] > 1 else "", role)

    def gates(role, r, s, mu):
        c = chunks[role]
        scale = {"auto": 1 / c if linear else c**-0.5, "none": 1.0, "inv": 1 / c, "inv_sqrt": c**-0.5}[rate_scale]
        least = (1 / 16) ** (1 / c) if not linear and wide.norm else 0.0
        retain = least + (1 - least) * s
        rate = most * scale * r * (1 - mu)
        return retain, rate * (1 + retain) / 2 if linear else rate

    def token(state, x, pos):
        made = lambda role: predict(role, anchors(state, role), x["x"])
        k, v = unit(made("k")), made("v")
        q = unit(made("q")) if adaptive_q else x["q"]
        r = jax.nn.sigmoid(rate_bias + made("rate")[0])
        s = jax.nn.sigmoid(retain_bias + made("retain")[0])
        mu = x["momentum"] if momentum == "gate" else 0.0 if momentum == "none" else momentum["constant"]
        y = predict("mem", anchors(state, "mem"), q)
        new = dict(state)
        for role in roles:
            at = anchors(state, role)
            target = soft(predict(role, at, v))
            g = jax.grad(lambda w: bias.loss(predict(role, w, k), target, None))(at)
            retain, rate = gates(role, r, s, mu)
            inputs = layer_inputs(net(role), at, k)
            for i, n in enumerate(shapes[role]):
                first = i + 1 == len(shapes[role])
                w = state[f"{role}_{n}"]
                kept = retain * w
                if precond == "per_layer" or (precond == "first_only" and first):
                    z = inputs[n] if first else unit(inputs[n])
                    kept = kept - rate * jnp.outer(w @ z, z)
                step = -rate * g[n]
                if momentum != "none":
                    step = mu * state[f"S_{role}_{n}"] + step
                    new[f"S_{role}_{n}"] = step
                new[f"{role}_{n}"] = kept + step
                if chunks[role] > 1 and (pos + 1) % chunks[role] == 0:
                    new[f"anchor_{role}_{n}"] = new[f"{role}_{n}"]
        return new, y

    state = {}
    for role in roles:
        for prefix in [""] + ["S_"] * (momentum != "none") + ["anchor_"] * (chunks[role] > 1):
            state |= {f"{prefix}{role}_{n}": shape for n, shape in shapes[role].items()}
    inputs = {"x": (dk,)} | ({} if adaptive_q else {"q": (dk,)}) | ({"momentum": ()} if momentum == "gate" else {})
    return inputs, state, token
