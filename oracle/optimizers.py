"""Golden trajectories for the outer optimizers, from their equations alone, in NumPy and float64.

    python optimizers.py OUT_FOLDER [OPTIMIZER...]

writes `problem.safetensors` (the start, 20 fixed gradients, inputs and rates that all optimizers get) and one
`<optimizer>.safetensors` each. Weights are turned to the papers' `[out, in]` here and back: an orientation that is
wrong on one side shows. Two of the tensors are due only at every fourth step, and count only those.

In the problem, `p.NAME` is the start, `g.NAME` `[20, ..]` the gradients, `x.NAME` `[20, tokens, in]` the inputs of a
matrix, `rates` `[20]`; its metadata name the kind of every tensor. In the others, `case.STEP.NAME` is the tensor after
so many steps, `case.end.STATE.NAME` the optimizer's state at the end, `case.start.NAME` what it drew at the start; the
metadata say, per case, which optimizer it is: as a config file writes it, in JSON.
"""

import json
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
from safetensors.numpy import save_file

STEPS = 20
SHOWN = (1, 2, 4, 8, 9, 13, 20)
TOKENS = 9
SLOW = {"tall": 4, "scale": 4}
TENSORS = {
    "wide": ("matrix", (4, 7)),
    "tall": ("matrix", (7, 4)),
    "square": ("matrix", (5, 5)),
    "table": ("embedding", (6, 3)),
    "taps": ("conv", (3, 4)),
    "gate": ("gate", (5,)),
    "scale": ("norm", (3,)),
}
MATRICES = [name for name, (kind, _) in TENSORS.items() if kind == "matrix"]
DECAYS = ("matrix", "embedding")


def draw_problem():
    rng = np.random.default_rng(crc32(b"optimizers"))
    p = {name: rng.normal(size=shape) for name, (_, shape) in TENSORS.items()}
    g = {}
    for name, (_, shape) in TENSORS.items():
        # Around a mean, so that momenta have something to gather.
        g[name] = 0.5 * rng.normal(size=shape) + rng.normal(size=(STEPS, *shape))
    x = {name: rng.normal(size=(STEPS, TOKENS, TENSORS[name][1][0])) for name in MATRICES}
    return p, g, x, 0.02 * (1 + 0.5 * np.sin(np.arange(STEPS)))


# The common pieces.

POLYNOMIALS = {
    "muon": (3.4445, -4.7750, 2.0315),
    "cubic": (1.5, -0.5, 0.0),
    "quintic": (15 / 8, -10 / 8, 3 / 8),
}


def newton_schulz(x, polynomial="muon", iterations=5):
    """On the wide orientation; a vector is divided by its length."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, polynomial, iterations).T
    a, b, c = POLYNOMIALS[polynomial]
    x = x / (np.sqrt(np.sum(x * x) + 1e-24) + 1e-7)
    if x.shape[0] == 1:
        return x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def as_matrix(x):
    """Rows of the last axis."""
    return x.reshape(-1, x.shape[-1])


def inverse_root(a):
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag(values**-0.5) @ vectors.T


class Precondition:
    def __init__(self, shape, name="none", beta=0.98, eps=1e-8, ridge=1e-3):
        self.name, self.beta, self.eps, self.ridge = name, beta, eps, ridge
        rows, columns = as_matrix(np.zeros(shape)).shape
        self.scale = np.zeros(2 * [min(rows, columns)] if name == "outer" else shape)

    def __call__(self, g, t):
        if self.name == "none":
            return g
        if self.name == "adagrad":
            self.scale = self.scale + g**2
            return g / (np.sqrt(self.scale) + self.eps)
        if self.name == "adam":
            self.scale = self.beta * self.scale + (1 - self.beta) * g**2
            return g / (np.sqrt(self.scale / (1 - self.beta**t)) + self.eps)
        m = as_matrix(g)
        left = m.shape[0] <= m.shape[1]
        self.scale = self.scale + (m @ m.T if left else m.T @ m)
        n = len(self.scale)
        root = inverse_root(self.scale + self.ridge * np.trace(self.scale) / n * np.eye(n))
        return (root @ m if left else m @ root).reshape(g.shape)

    def state(self):
        return {} if self.name == "none" else {"scale": self.scale}


class Method:
    """One tensor under one optimizer: `step(w, g, rate, t, x)` with the tensor's own count t from 1."""

    def __init__(self, shape, decays, rng):
        self.shape, self.decays, self.rng = shape, decays, rng

    def decayed(self, w, rate, decay):
        return w - rate * decay * w if self.decays else w

    def start(self):
        return {}


class AdamW(Method):
    def __init__(self, *common, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.1, rate=1.0):
        super().__init__(*common)
        self.betas, self.eps, self.decay, self.faster = (beta1, beta2), eps, weight_decay, rate
        self.m, self.v = np.zeros(self.shape), np.zeros(self.shape)

    def step(self, w, g, rate, t, x):
        rate = self.faster * rate
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        mean, square = self.m / (1 - b1**t), self.v / (1 - b2**t)
        return self.decayed(w, rate, self.decay) - rate * mean / (np.sqrt(square) + self.eps)

    def state(self):
        return {"m": self.m, "v": self.v}


class Sgd(Method):
    def __init__(self, *common, momentum=0.9, nesterov=False, weight_decay=1e-3):
        super().__init__(*common)
        self.momentum, self.nesterov, self.decay = momentum, nesterov, weight_decay
        self.m = np.zeros(self.shape)

    def step(self, w, g, rate, t, x):
        self.m = self.momentum * self.m + g
        d = g + self.momentum * self.m if self.nesterov else self.m
        return self.decayed(w, rate, self.decay) - rate * d

    def state(self):
        return {"m": self.m} if self.momentum > 0 else {}


class Muon(Method):
    def __init__(
        self, *common, momentum=0.95, nesterov=True, polynomial="muon", iterations=5, scale="rms", weight_decay=0.1
    ):
        super().__init__(*common)
        self.momentum, self.nesterov, self.decay = momentum, nesterov, weight_decay
        self.ns = lambda m: newton_schulz(m, polynomial, iterations)
        self.scale = scale_of(scale, self.shape)
        self.m = np.zeros(self.shape)

    def step(self, w, g, rate, t, x):
        self.m = self.momentum * self.m + g
        d = g + self.momentum * self.m if self.nesterov else self.m
        # The papers' orientation is the transpose.
        return self.decayed(w, rate, self.decay) - rate * self.scale * self.ns(d.T).T

    def state(self):
        return {"m": self.m}


def scale_of(scale, shape):
    d_in, d_out = shape
    return {"none": 1.0, "spectral": max(1, d_out / d_in) ** 0.5, "rms": 0.2 * max(d_in, d_out) ** 0.5}[scale]


class AdaMuon(Method):
    def __init__(
        self, *common, momentum=0.95, beta2=0.95, eps=1e-8, sign=True, polynomial="muon", iterations=5, weight_decay=0.1
    ):
        super().__init__(*common)
        self.momentum, self.beta2, self.eps, self.sign, self.decay = momentum, beta2, eps, sign, weight_decay
        self.ns = lambda m: newton_schulz(m, polynomial, iterations)
        self.m, self.v = np.zeros(self.shape), np.zeros(self.shape)

    def step(self, w, g, rate, t, x):
        self.m = self.momentum * self.m + g
        o = self.ns((np.sign(self.m) if self.sign else self.m).T).T
        self.v = self.beta2 * self.v + (1 - self.beta2) * o**2
        a = o / (np.sqrt(self.v) + self.eps)
        return self.decayed(w, rate, self.decay) - rate * 0.2 * np.sqrt(a.size) * a / np.linalg.norm(a)

    def state(self):
        return {"m": self.m, "v": self.v}


class M3(Method):
    def __init__(
        self,
        *common,
        form="ema",
        beta1=0.9,
        beta2=0.999,
        beta3=0.9,
        alpha=0.5,
        period=10,
        eps=1e-8,
        polynomial="muon",
        iterations=5,
        scale="rms",
        weight_decay=0.1,
    ):
        super().__init__(*common)
        self.form, self.betas, self.alpha, self.period, self.eps = form, (beta1, beta2, beta3), alpha, period, eps
        self.ns = lambda m: newton_schulz(m, polynomial, iterations)
        self.scale, self.decay = 1.0 if form == "literal" else scale_of(scale, self.shape), weight_decay
        self.m1, self.m2, self.o2, self.sum, self.v = (np.zeros(self.shape) for _ in range(5))

    def step(self, w, g, rate, t, x):
        b1, b2, b3 = self.betas
        literal = self.form == "literal"
        done = t - 1
        if done > 0 and done % self.period == 0:
            mean = self.sum / self.period
            self.m2 = self.m2 + b3 * self.sum if literal else b3 * self.m2 + (1 - b3) * mean
            self.o2 = self.ns(self.m2.T).T
            self.sum = np.zeros(self.shape)
        self.sum = self.sum + g
        self.m1 = self.m1 + b1 * g if literal else b1 * self.m1 + (1 - b1) * g
        self.v = self.v + b2 * g**2 if literal else b2 * self.v + (1 - b2) * g**2
        d = self.ns(self.m1.T).T + self.alpha * self.o2
        if self.form == "literal":
            d = d / (np.sqrt(self.v) + self.eps)
        if self.form == "ema_v":
            d = d / (np.sqrt(self.v / (1 - b2**t)) + self.eps)
        return self.decayed(w, rate, self.decay) - rate * self.scale * d

    def state(self):
        own = {"m1": self.m1, "m2": self.m2, "o2": self.o2, "sum": self.sum}
        return own if self.form == "ema" else own | {"v": self.v}


class Dgd(Method):
    """In the papers' orientation, W [out, in], from the inputs themselves."""

    def __init__(self, *common, form="first_order", decay_scale=0.01):
        super().__init__(*common)
        self.form, self.share = form, decay_scale

    def step(self, w, g, rate, t, x):
        w, g = w.T, g.T
        c = self.share * x.T @ x / len(x)
        if self.form == "exact":
            # W (C + 1 / rate) = W_t / rate - g
            new = np.linalg.solve(c + np.eye(len(c)) / rate, (w / rate - g).T).T
        else:
            r = rate / (1 + rate * np.trace(c))
            new = w @ (np.eye(len(c)) - r * c) - r * g
        return new.T

    def state(self):
        return {}


class Momentum(Method):
    def __init__(self, *common, momentum=0.9, precondition=None, weight_decay=1e-3):
        super().__init__(*common)
        self.momentum, self.decay = momentum, weight_decay
        self.precondition = Precondition(self.shape, **(precondition or {}))
        self.m = np.zeros(self.shape)

    def forget(self, g):
        return self.momentum * self.m

    def step(self, w, g, rate, t, x):
        self.m = self.forget(g) - rate * self.precondition(g, t)
        return self.decayed(w, rate, self.decay) + self.m

    def state(self):
        return {"m": self.m} | self.precondition.state()


class DeltaMomentum(Momentum):
    def __init__(self, *common, form="elementwise", forget=1e-3, **settings):
        super().__init__(*common, **settings)
        self.form, self.rate_of_forgetting = form, forget

    def forget(self, g):
        if self.form == "elementwise":
            return np.clip(self.momentum - self.rate_of_forgetting * g**2, -1, 1) * self.m
        m, g = as_matrix(self.m), as_matrix(g)
        f = min(self.rate_of_forgetting, (1 + self.momentum) / np.sum(g**2))
        along = g @ g.T @ m if g.shape[0] <= g.shape[1] else m @ g.T @ g
        return (self.momentum * m - f * along).reshape(self.shape)


class DeepMomentum(Method):
    def __init__(
        self,
        *common,
        hidden=16,
        momentum=0.9,
        learn=0.5,
        target="gradient",
        precondition=None,
        output="linear",
        weight_decay=0.1,
    ):
        super().__init__(*common)
        self.momentum, self.learn, self.target, self.output = momentum, learn, target, output
        self.precondition = Precondition(self.shape, **(precondition or {"name": "adam"}))
        self.decay = weight_decay
        n = min(as_matrix(np.zeros(self.shape)).shape)
        self.a0 = self.rng.normal(size=(n, hidden)) / np.sqrt(n)
        self.a, self.b = np.zeros((n, hidden)), np.zeros((hidden, n))

    def step(self, w, g, rate, t, x):
        u = as_matrix(self.precondition(g, t))
        turned = u.shape[0] < u.shape[1]
        u = u.T if turned else u
        # Vectors of mean square length 1.
        size = np.sqrt(np.mean(np.sum(u**2, axis=1)))
        u = u / size
        sigmoid = lambda z: 1 / (1 + np.exp(-z))
        z = u @ (self.a0 + self.a)
        s = sigmoid(z)
        dy = (u if self.target == "gradient" else np.full_like(u, u.shape[1] ** -0.5)) / len(u)
        db = (z * s).T @ dy
        da = u.T @ (dy @ self.b.T * (s + z * s * (1 - s)))
        learn = self.learn * (1 - self.momentum)
        self.a = self.momentum * self.a - learn * da
        self.b = self.momentum * self.b - learn * db
        z = u @ (self.a0 + self.a)
        y = z * sigmoid(z) @ self.b
        y = newton_schulz(y) if self.output == "orthogonal" else size * y
        return self.decayed(w, rate, self.decay) + rate * (y.T if turned else y).reshape(self.shape)

    def start(self):
        return {"start": self.a0}

    def state(self):
        return {"start": self.a0, "first": self.a, "second": self.b} | self.precondition.state()


def prox_gradient(c, target, centre, start, rate, iterations, sparsity=0.0):
    """W [out, in]: minimises 1/2 tr(W C W^T) - <W, target> + |W - centre|^2 / (2 rate) + sparsity |W|_1."""
    k = np.trace(c)
    w = start
    for _ in range(iterations if k > 0 else 1):
        slope = w @ c - target
        # argmin <slope, Z> + k/2 |Z - w|^2 + |Z - centre|^2 / (2 rate) + sparsity |Z|_1
        weight = k + 1 / rate
        z = (k * w + centre / rate - slope) / weight
        w = np.sign(z) * np.maximum(np.abs(z) - sparsity / weight, 0)
    return w


class GeneralisedMomentum(Method):
    def __init__(
        self,
        *common,
        loss="l2",
        momentum=0.9,
        forget=1.0,
        level="slow",
        period=8,
        iterations=4,
        precondition=None,
        weight_decay=1e-3,
    ):
        super().__init__(*common)
        self.loss, self.momentum, self.forget, self.level, self.period = loss, momentum, forget, level, period
        self.iterations, self.decay = iterations, weight_decay
        self.precondition = Precondition(self.shape, **(precondition or {}))
        self.m, self.key, self.sum = (np.zeros(self.shape) for _ in range(3))

    def step(self, w, g, rate, t, x):
        if t > 1 and (t - 1) % self.period == 0:
            self.key, self.sum = self.sum / self.period, np.zeros(self.shape)
        self.sum = self.sum + g
        k = as_matrix(self.key if self.level == "slow" else g)
        left = k.shape[0] <= k.shape[1]
        # The solver has the square matrix on the right.
        turn = (lambda a: as_matrix(a).T) if left else as_matrix
        c = self.forget * (k @ k.T if left else k.T @ k) if self.loss == "l2" else np.zeros(2 * [min(k.shape)])
        old = self.momentum * turn(self.m)
        new = prox_gradient(c, -turn(self.precondition(g, t)), old, old, rate, self.iterations)
        self.m = (new.T if left else new).reshape(self.shape)
        return self.decayed(w, rate, self.decay) + self.m

    def state(self):
        slow = {"key": self.key, "sum": self.sum} if self.loss == "l2" and self.level == "slow" else {}
        return {"m": self.m} | slow | self.precondition.state()


class Ggd(Method):
    def __init__(
        self, *common, loss="l2", value="corrected", decay_scale=1.0, window=1, sparsity=0.0, iterations=4
    ):
        super().__init__(*common)
        self.loss, self.value, self.share, self.window = loss, value, decay_scale, window
        self.sparsity, self.iterations = sparsity, iterations
        self.past = []

    def step(self, w, g, rate, t, x):
        w, g = w.T, g.T
        c = self.share * x.T @ x / len(x) if self.loss == "l2" else np.zeros((w.shape[1], w.shape[1]))
        target = w @ c - g if self.value == "corrected" else -g
        self.past.append(w)
        centre = np.mean(self.past[-self.window :], axis=0)
        return prox_gradient(c, target, centre, w, rate, self.iterations, self.sparsity).T

    def state(self):
        slots = self.window - 1
        if slots == 0:
            return {}
        # A ring: the weights before step t lie in slot (t - 1) mod slots.
        ring = np.zeros((slots, *self.shape))
        for i, w in enumerate(self.past):
            ring[i % slots] = w.T
        return {"past": ring}


METHODS = {
    "sgd": Sgd,
    "adamw": AdamW,
    "muon": Muon,
    "adamuon": AdaMuon,
    "m3": M3,
    "dgd": Dgd,
    "momentum": Momentum,
    "delta_momentum": DeltaMomentum,
    "deep_momentum": DeepMomentum,
    "generalised_momentum": GeneralisedMomentum,
    "ggd": Ggd,
}
OF_MATRICES = ("muon", "adamuon", "m3", "dgd", "ggd")
REST = {"rate": 0.5, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.3}
PRECONDITIONS = {
    "adagrad": {"name": "adagrad", "eps": 1e-2},
    "adam": {"name": "adam", "beta": 0.9, "eps": 1e-2},
    "outer": {"name": "outer", "ridge": 1e-2},
}

CASES = {
    "sgd": {
        "default": {},
        "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.5},
        "plain": {"momentum": 0.0},
    },
    "adamw": {"default": {}, "other": {"beta1": 0.8, "beta2": 0.9, "eps": 1e-2, "weight_decay": 0.5}},
    "muon": {
        "default": {},
        "cubic": {"momentum": 0.8, "nesterov": False, "polynomial": "cubic", "iterations": 7, "scale": "spectral"},
        "rest": {"scale": "none", "weight_decay": 0.4, "rest": REST},
    },
    "adamuon": {
        "default": {},
        "other": {"momentum": 0.8, "beta2": 0.9, "eps": 1e-2, "sign": False, "polynomial": "quintic", "iterations": 3},
        "rest": {"weight_decay": 0.4, "rest": REST},
    },
    "m3": {
        "default": {},
        "ema_v": {"form": "ema_v", "beta1": 0.8, "beta2": 0.9, "eps": 1e-2, "period": 3, "rest": REST},
        "literal": {"form": "literal", "period": 4, "beta3": 0.7, "alpha": 0.8, "iterations": 3, "weight_decay": 0.0},
        "cubic": {"polynomial": "cubic", "period": 2, "scale": "spectral", "weight_decay": 0.4},
    },
    "dgd": {
        "default": {},
        "printed": {"decay_scale": 1.0, "rest": REST},
        "exact": {"form": "exact", "decay_scale": 0.5},
    },
    "momentum": {
        "default": {},
        "decay": {"momentum": 0.7, "weight_decay": 0.5},
    }
    | {name: {"precondition": p} for name, p in PRECONDITIONS.items()},
    "delta_momentum": {
        "default": {},
        "strong": {"momentum": 0.7, "forget": 0.5, "weight_decay": 0.5},
        "matrix": {"form": "matrix", "forget": 0.05},
        "bounded": {"form": "matrix", "forget": 3.0},
    }
    | {name: {"precondition": p, "forget": 0.1} for name, p in PRECONDITIONS.items()},
    "deep_momentum": {
        "default": {},
        "other": {"hidden": 5, "momentum": 0.7, "learn": 0.8, "weight_decay": 0.5},
        "printed": {"target": "ones", "precondition": {"name": "none"}},
        "orthogonal": {"output": "orthogonal", "precondition": PRECONDITIONS["outer"]},
        "adagrad": {"precondition": PRECONDITIONS["adagrad"]},
    },
    "generalised_momentum": {
        "default": {},
        "own": {"level": "own", "forget": 5.0, "momentum": 0.7, "iterations": 6},
        "slow": {"period": 3, "forget": 5.0, "iterations": 2, "weight_decay": 0.5},
        "dot": {"loss": "dot"},
        "outer": {"precondition": PRECONDITIONS["outer"]},
        "adam": {"level": "own", "precondition": PRECONDITIONS["adam"]},
    },
    "ggd": {
        "default": {},
        "window": {"window": 3, "decay_scale": 0.5, "iterations": 2},
        "sparse": {"sparsity": 0.3, "rest": REST},
        "dgd": {"value": "error", "decay_scale": 0.1, "iterations": 6},
        "descent": {"loss": "dot", "value": "error", "sparsity": 0.1, "window": 2},
    },
}


def make(name, settings, seed, problem):
    """One case as a flat dict of arrays."""
    p, g, x, rates = problem
    settings = dict(settings)
    rest = settings.pop("rest", {})
    rng = np.random.default_rng(seed)
    out, methods, w = {}, {}, dict(p)
    for tensor, (kind, shape) in TENSORS.items():
        common = (shape, kind in DECAYS, rng)
        own = name not in OF_MATRICES or kind == "matrix"
        methods[tensor] = METHODS[name](*common, **settings) if own else AdamW(*common, **rest)
        out |= {f"start.{state}.{tensor}": value for state, value in methods[tensor].start().items()}
    for t in range(1, STEPS + 1):
        for tensor, method in methods.items():
            every = SLOW.get(tensor, 1)
            if t % every == 0:
                inputs = x[tensor][t - 1] if tensor in x else None
                w[tensor] = method.step(w[tensor], g[tensor][t - 1], rates[t - 1], t // every, inputs)
        if t in SHOWN:
            out |= {f"{t}.{tensor}": value for tensor, value in w.items()}
    for tensor, method in methods.items():
        out |= {f"end.{state}.{tensor}": value for state, value in method.state().items()}
    bad = [key for key, value in out.items() if not np.all(np.isfinite(value)) or np.max(np.abs(value)) > 1e4]
    assert not bad, f"{name}, {settings}: {bad} out of bounds"
    return out


def write(arrays, file, metadata):
    save_file({name: np.ascontiguousarray(a, np.float64) for name, a in arrays.items()}, file, metadata)
    print(f"{file.name}: {len(arrays)} arrays", flush=True)


def main(folder, chosen):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    problem = draw_problem()
    p, g, x, rates = problem
    groups = [("p", p), ("g", g), ("x", x)]
    arrays = {f"{group}.{name}": value for group, values in groups for name, value in values.items()}
    kinds = {name: kind for name, (kind, _) in TENSORS.items()}
    write(arrays | {"rates": rates}, folder / "problem.safetensors", kinds)
    for name, cases in CASES.items():
        if chosen and name not in chosen:
            continue
        arrays, metadata = {}, {}
        for label, settings in cases.items():
            made = make(name, settings, crc32(f"{name}.{label}".encode()), problem)
            arrays |= {f"{label}.{key}": value for key, value in made.items()}
            metadata[label] = json.dumps({"name": name} | settings)
        write(arrays, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
