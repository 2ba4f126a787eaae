"""The generic rule: any structure, features, bias, retention and algorithm (spec A.5), for one token at a time.

    G  = sum_i gamma_i dM(W, k_i)^T r(M(W, k_i), v_i)       W = psi(Z), or psi of the state at the chunk start
    S' = momentum S - rate G
    Z' = Prox(retain Z + (1 - retain) target + direction(S'))
    y  = M(psi(Z'), q)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from losses import BIASES, norm
from retentions import RETENTIONS
from structures import FEATURES, STRUCTURES


# Algorithms (spec A.4).


@dataclass
class Gd:
    solve = "explicit"
    momentum = False  # whether there is a state S
    unit = False  # whether the direction has unit scale, and `ns_rate` scales it
    keeps_all = False
    when = "token"

    def direction(self, s):
        return s


@dataclass
class Momentum(Gd):
    momentum = True


@dataclass
class Ftrl(Gd):
    keeps_all = True


@dataclass
class Implicit(Gd):
    solve = "implicit"


@dataclass
class Newton(Gd):
    solve = "newton"
    # `lambda` is a word of Python.
    damping: float = 1.0


POLYNOMIALS = {"muon": (3.4445, -4.7750, 2.0315), "cubic": (1.5, -0.5, 0.0), "quintic": (15 / 8, -10 / 8, 3 / 8)}


@dataclass
class Muon(Gd):
    polynomial: str = "muon"
    iterations: int = 5
    when: str = "token"
    momentum = True
    unit = True

    def direction(self, s):
        if s.ndim == 1 or 1 in s.shape:
            return s / (norm(s) + 1e-7)
        a, b, c = POLYNOMIALS[self.polynomial]
        tall = s.shape[0] > s.shape[1]
        x = s.T if tall else s
        x = x / (norm(x) + 1e-7)
        for _ in range(self.iterations):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if tall else x


ALGORITHMS = {"gd": Gd, "momentum": Momentum, "muon": Muon, "ftrl": Ftrl, "implicit": Implicit, "newton": Newton}


def knob(values, given):
    """A value of a knob, from its name or a table with `name`."""
    given = {"name": given} if isinstance(given, str) else dict(given)
    make = values[given.pop("name")]
    return make(**{{"lambda": "damping"}.get(key, key): value for key, value in given.items()})


class Miras:
    """Built from the settings of a config file."""

    def __init__(self, dk, dv, structure="matrix", features="none", bias="l2", window=0, retention="l2",
                 algorithm="gd", steps=1, gates="scalar", decay="gate", gradient="prev", read="post", chunk=1,
                 rate_scale="auto", clip=None):
        self.dk, self.dv = dk, dv
        self.structure, self.features = knob(STRUCTURES, structure), knob(FEATURES, features)
        self.bias, self.retention = knob(BIASES, bias), knob(RETENTIONS, retention)
        self.algorithm = knob(ALGORITHMS, algorithm)
        self.window, self.steps, self.chunk, self.clip = window, steps, chunk, clip
        # How a mixer makes a gate, `rate_scale` and mostly `decay`, is not the rule's.
        self.gates, self.decay, self.gradient, self.reads = gates, decay, gradient, read
        self.width = self.features.width(dk)
        self.shapes = self.structure.shapes(self.width, dv)

    def inputs(self):
        """Name and shape of everything that a token brings."""
        channels = {"scalar": (), "value": (self.dv,), "key": (self.dk,)}[self.gates]
        rates = () if self.gates == "key" else channels
        rated = self.algorithm.solve != "newton"
        out = {"k": (self.dk,), "v": (self.dv,), "q": (self.dk,)}
        if self.retention.pull is not None and not self.algorithm.keeps_all:
            out["retain"] = channels if self.decay == "gate" else ()
        if rated and not self.window:
            out["rate"] = rates
        if self.algorithm.momentum:
            out["momentum"] = rates
        if self.algorithm.unit:
            out["ns_rate"] = ()
        if self.bias.threshold:
            out["threshold"] = ()
        if self.window:
            out["window"] = (self.window,)
        if self.features.coefficients:
            out["coefficients"] = (self.features.coefficients,)
        for n in range(2, self.steps + 1):
            out |= {f"k{n}": (self.dk,), f"v{n}": (self.dv,)} | ({f"rate{n}": rates} if rated else {})
        return out

    def state(self):
        """Name and shape of everything that is remembered."""
        r, past, chunked = self.retention, self.window - 1, self.chunk > 1
        group = lambda prefix, has: {prefix + n: s for n, s in self.shapes.items()} if has else {}
        out = group("", True) | group("S_", self.algorithm.momentum) | group("anchor_", chunked)
        out |= group("step_", chunked and r.multiplies) | ({"shrink": (1,)} if chunked and r.shrinks else {})
        out |= {"ns_rate": (1,)} if chunked and self.late() else {}
        out |= group("start_", r.pull == "start")
        if past > 0:
            out |= {"window_k": (past, self.dk), "window_v": (past, self.dv)}
            out |= {"window_threshold": (past,)} if self.bias.threshold else {}
        if self.algorithm.solve == "newton":
            out["P"] = (self.width, self.width)
        return out

    def late(self):
        """Whether there is one step per chunk."""
        return self.algorithm.when == "chunk"

    # Reading.

    def predict(self, w, x, coefficients):
        y = self.structure(w, self.features(x, coefficients))
        return y + x if self.structure.residual else y

    def read(self, state, x):
        anchors = {n: state["anchor_" + n] for n in self.shapes} if self.chunk > 1 else None
        if anchors and self.reads == "start":
            z = anchors
        else:
            z = {n: state[n] for n in self.shapes}
            if self.chunk > 1:
                z = self.settle(state, z)
        w = {n: self.retention.psi(z[n], (anchors or z)[n]) for n in z}
        return self.predict(w, x["q"], x.get("coefficients"))

    def settle(self, state, z):
        if not self.retention.settles:
            return z
        shrink = state["shrink"][0] if "shrink" in state else None
        return {n: self.retention.prox(z[n], state.get("step_" + n), shrink) for n in z}

    # Writing.

    def spread(self, gate, name):
        """A gate against a tensor: one number, or one per channel of an axis of it."""
        if jnp.ndim(gate) == 0:
            return gate
        if len(self.shapes[name]) == 1:
            return gate
        axis = self.structure.axes(name, self.dk, self.dv)[self.gates]
        return gate[:, None] if axis == 0 else gate[None, :]

    def gradient_of(self, w, k, v, threshold, coefficients, rate):
        """The inner gradient of one association."""
        p, back = jax.vjp(lambda w: self.predict(w, k, coefficients), w)
        if self.algorithm.solve == "implicit":
            phi = self.features(k, coefficients)
            if self.bias == BIASES["dot"]():
                r = self.bias.residual(p, v, threshold)
            else:
                r = self.bias.implicit(p - v, rate * jnp.sum(phi * phi), threshold)
        else:
            r = self.bias.residual(p, v, threshold)
        if self.clip is not None:
            r = r * jnp.minimum(1.0, self.clip / norm(r))
        return back(r)[0]

    def associations(self, state, x, pos, n):
        """What inner step n descends the loss of: pairs of a key and a value, with weight and threshold."""
        if n == 1:
            past = max(self.window - 1, 0)
            for i in range(past - min(pos, past), past):
                threshold = state["window_threshold"][i] if self.bias.threshold else None
                yield x["window"][i], state["window_k"][i], state["window_v"][i], threshold
            yield (x["window"][-1] if self.window else 1.0), x["k"], x["v"], x.get("threshold")
        else:
            yield 1.0, x[f"k{n}"], x[f"v{n}"], x.get("threshold")

    def write(self, state, x, pos):
        if self.algorithm.solve == "newton":
            return self.write_newton(state, x)
        state = dict(state)
        if self.chunk > 1 and pos % self.chunk == 0:
            state |= {"anchor_" + n: state[n] for n in self.shapes}
        ends = (pos + 1) % self.chunk == 0
        gathered = {n: state.get("step_" + n, 0.0) for n in self.shapes}
        shrink = state["shrink"][0] if "shrink" in state else 0.0
        for n in range(1, self.steps + 1):
            gathered, shrink = self.inner_step(state, x, pos, n, gathered, shrink, ends)
        held = {"shrink": jnp.reshape(shrink, (1,))} | {"step_" + n: gathered[n] for n in self.shapes}
        if ends:
            state |= self.settle(state | held, {n: state[n] for n in self.shapes})
            held = {name: jnp.zeros_like(value) for name, value in held.items()}
        state |= {name: value for name, value in held.items() if name in state}
        for name in ["k", "v", "threshold"]:
            if "window_" + name in state:
                state["window_" + name] = jnp.concatenate([state["window_" + name][1:], x[name][None]])
        return state

    def inner_step(self, state, x, pos, n, gathered, shrink, ends):
        retention, algorithm = self.retention, self.algorithm
        # The token decays once, before its first step.
        retain = x.get("retain", 1.0) if n == 1 else 1.0
        rate = x.get("rate" if n == 1 else f"rate{n}", 1.0)
        z, decayed = {}, {}
        for name in self.shapes:
            z[name] = state[name]
            keep = self.spread(retain, name)
            target = state["start_" + name] if retention.pull == "start" else retention.pull or 0.0
            decayed[name] = keep * z[name] + (1 - keep) * target
        at = z
        if self.chunk > 1:
            at = {name: state["anchor_" + name] for name in z}
        elif self.gradient == "decayed" or algorithm.solve == "implicit":
            at = decayed
        w = {name: retention.psi(at[name], at[name]) for name in at}
        # A late step goes as far as all that its chunk would have taken.
        reach = x.get("ns_rate", 1.0)
        if "ns_rate" in state:
            reach = reach + state["ns_rate"][0]
            state["ns_rate"] = jnp.reshape(0.0 if ends else reach, (1,))
        g = {name: 0.0 for name in w}
        for gamma, k, v, threshold in self.associations(state, x, pos, n):
            size = gamma if self.window and n == 1 else rate
            one = self.gradient_of(w, k, v, threshold, x.get("coefficients"), size)
            g = {name: g[name] + gamma * one[name] for name in g}
        for name in w:
            keep = self.spread(retain, name)
            s = -self.spread(rate, name) * retention.project(w[name], g[name])
            if algorithm.momentum:
                s = s + self.spread(x["momentum"], name) * state["S_" + name]
                state["S_" + name] = s
            step = reach * algorithm.direction(s)
            if self.late() and not ends:
                step = jnp.zeros_like(step)
            if retention.shrinks:
                step = keep * step
            state[name] = decayed[name]
            if retention.multiplies:
                gathered = gathered | {name: keep * gathered[name] + step}
            else:
                state[name] = state[name] + step
        size = x["ns_rate"] if algorithm.unit else jnp.sum(x["window"]) if self.window and n == 1 else jnp.mean(rate)
        return gathered, shrink + size * jnp.mean(retain)

    def write_newton(self, state, x):
        """Recursive least squares with forgetting."""
        retain = jnp.maximum(x.get("retain", 1.0), 1e-3)
        w, k = state["W"], self.features(x["k"], x.get("coefficients"))
        p = state["P"] / retain
        p = p * jnp.minimum(1.0, 1e3 / jnp.trace(p))
        g = p @ k / (1 + k @ p @ k)
        w = w - jnp.outer(w @ k - x["v"], g)
        p = p - jnp.outer(g, p @ k)
        return dict(state) | {"W": w, "P": p}

    def token(self, state, x, pos):
        """One token: the state after it, and its read."""
        if self.reads == "pre" or (self.reads == "start" and self.chunk == 1):
            return self.write(state, x, pos), self.read(state, x)
        state = self.write(state, x, pos)
        return state, self.read(state, x)
