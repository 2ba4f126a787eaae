"""What function of a key a memory is, and what keys pass through before it (spec A.1).

Weights are dicts of arrays. Structures say the shape of each tensor, and on which of its axes the channels of
values and of keys lie (0 rows, 1 columns, None: nowhere)."""

from dataclasses import dataclass
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "silu": jax.nn.silu}


def layer_norm(x):
    """Without scale and offset."""
    centred = x - jnp.mean(x)
    return centred / jnp.sqrt(jnp.mean(centred**2) + 1e-6)


@dataclass
class Diagonal:
    """A vector; retentions see it as one row."""

    residual: bool = False

    def shapes(self, dk, dv):
        return {"W": (dv,)}

    def axes(self, name, dk, dv):
        return {"value": 0, "key": 0}

    def __call__(self, w, x):
        return w["W"] * x


@dataclass
class Matrix:
    residual: bool = False

    def shapes(self, dk, dv):
        return {"W": (dv, dk)}

    def axes(self, name, dk, dv):
        return {"value": 0, "key": 1}

    def __call__(self, w, x):
        return w["W"] @ x


@dataclass
class Mlp:
    """W1 is the last layer, next to the values."""

    layers: int = 2
    expansion: int = 4
    activation: str = "gelu"
    residual: bool = True
    norm: bool = True

    def shapes(self, dk, dv):
        widths = [dv] + [self.expansion * dv] * (self.layers - 1) + [dk]
        return {f"W{i + 1}": (widths[i], widths[i + 1]) for i in range(self.layers)}

    def axes(self, name, dk, dv):
        return {"value": {"W1": 0, f"W{self.layers}": 1}.get(name), "key": None}

    def __call__(self, w, x):
        for i in range(self.layers, 1, -1):
            x = ACTIVATIONS[self.activation](w[f"W{i}"] @ x)
        x = w["W1"] @ x
        return layer_norm(x) if self.norm else x


@dataclass
class GatedMlp:
    expansion: int = 4
    activation: str = "gelu"
    residual: bool = True
    norm: bool = False

    def shapes(self, dk, dv):
        h = self.expansion * dv
        return {"W1": (dv, h), "W2": (h, dk), "W3": (h, dk)}

    def axes(self, name, dk, dv):
        return {"value": 0 if name == "W1" else 1, "key": None}

    def __call__(self, w, x):
        x = w["W1"] @ (ACTIVATIONS[self.activation](w["W2"] @ x) * (w["W3"] @ x))
        return layer_norm(x) if self.norm else x


STRUCTURES = {"diagonal": Diagonal, "matrix": Matrix, "mlp": Mlp, "gated_mlp": GatedMlp}


# Feature maps. `width(dk)`, and `phi(x, coefficients)`.


@dataclass
class NoFeatures:
    coefficients = 0

    def width(self, dk):
        return dk

    def __call__(self, x, coefficients):
        return x


@dataclass
class Elu(NoFeatures):
    """Divided by a constant of our own: it gives unit keys features of at most unit length."""

    def __call__(self, x, coefficients):
        return (jax.nn.elu(x) + 1) / (1 + np.sqrt(len(x)))


@dataclass
class Polynomial:
    """phi(x) . phi(y) = sum_i a_i (x . y)^i / sum_i a_i, one feature per monomial of degree up to `degree`. The
    division is our own: it gives unit keys features of unit length."""

    degree: int = 2

    @property
    def coefficients(self):
        return self.degree + 1

    def width(self, dk):
        return len(self(np.ones(dk), np.ones(self.degree + 1)))

    def __call__(self, x, a):
        a, n = jnp.sqrt(a / jnp.sum(a)), len(x)
        pairs = list(combinations(range(n), 2))
        out = [a[0]] + [a[1] * x[i] for i in range(n)]
        out += [a[2] * x[i] * x[i] for i in range(n)]
        out += [np.sqrt(2) * a[2] * x[i] * x[j] for i, j in pairs]
        if self.degree == 3:
            out += [a[3] * x[i] ** 3 for i in range(n)]
            out += [np.sqrt(3) * a[3] * x[i] * x[i] * x[j] for i in range(n) for j in range(n) if i != j]
            out += [np.sqrt(6) * a[3] * x[i] * x[j] * x[k] for i, j, k in combinations(range(n), 3)]
        return jnp.stack(out)


@dataclass
class Fourier(NoFeatures):
    """phi(x) = (cos w_1 x, sin w_1 x, cos w_2 x, ...) / sqrt(n) for n frequencies w: normal numbers of deviation
    `scale` by Box and Muller, cosine only, from the uniform ones of SplitMix64."""

    features: int = 64
    seed: int = 0
    scale: float = 2.0

    def width(self, dk):
        return self.features

    def uniform(self):
        state, mask = self.seed, 2**64 - 1
        while True:
            state = state + 0x9E3779B97F4A7C15 & mask
            z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
            z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
            yield ((z ^ z >> 31) >> 11) / 2**53

    def __call__(self, x, coefficients):
        draws, n = self.uniform(), self.features // 2
        normal = lambda: np.sqrt(-2 * np.log(1 - next(draws))) * np.cos(2 * np.pi * next(draws))
        w = self.scale * np.array([[normal() for _ in range(len(x))] for _ in range(n)])
        angles = w @ x
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1).reshape(-1) / np.sqrt(n)


FEATURES = {"none": NoFeatures, "elu": Elu, "polynomial": Polynomial, "fourier": Fourier}
