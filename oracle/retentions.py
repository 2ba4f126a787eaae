"""How the memory stays near what it was (spec A.3): a dual state Z, weights psi(Z), and a proximal map.

Functions take one tensor of the state; rows are along its last axis, and a vector is one row. `pull` is what `retain`
pulls towards: None (there is no `retain`), "start", or a number."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from losses import norm
from roots import root


def soft(z, g):
    return jnp.sign(z) * jnp.maximum(jnp.abs(z) - g, 0.0)


class Retention:
    pull = 0.0
    settles = False  # whether there is a proximal map
    multiplies = False  # whether steps multiply: they are gathered apart from the state within a chunk
    shrinks = False  # whether the proximal map depends on rate * retain, and steps scale with retain
    start = "plain"  # what the state starts as, see rules.Rule

    def psi(self, z, frozen):
        return z

    def project(self, w, g):
        return g


@dataclass
class No(Retention):
    pull = None


@dataclass
class L2(Retention):
    pass


@dataclass
class L2Anchor(Retention):
    pull = "start"


@dataclass
class Kl(Retention):
    """Each row of weights is a distribution over its inputs, of mass fan-in; the state is its logarithm."""

    settles = True

    def psi(self, z, frozen):
        return z.shape[-1] * jax.nn.softmax(z)

    def prox(self, z, step, shrink):
        return jnp.maximum(jax.nn.log_softmax(z), -80.0)


@dataclass
class FDivergence(Retention):
    """Z g(step - zeta), zeta per row such that the row sums to its length; g is the inverse of f'."""

    pull = 1.0
    settles = True
    multiplies = True
    start = "positive"

    def prox(self, z, step, shrink):
        return self.row(z, step) if z.ndim == 1 else jax.vmap(self.row)(z, step)

    def row(self, z, step):
        # g grows, so what is missing from the row grows with zeta.
        missing = lambda zeta, z, step: z.shape[0] - jnp.sum(z * self.g(step - zeta))
        zeta = root(missing, *self.bracket(step), z, step)
        return z * self.g(step - zeta)


@dataclass
class Chi2(FDivergence):
    """f(t) = (t - 1)^2 / 2."""

    def g(self, y):
        return jnp.maximum(1 + y, 0.0)

    def bracket(self, step):
        return jnp.min(step) - 1e3, jnp.max(step) + 1.0


@dataclass
class ReverseKl(FDivergence):
    """f(t) = -log t."""

    def g(self, y):
        return -1 / y

    def bracket(self, step):
        return jnp.max(step), jnp.max(step) + 1e3


@dataclass
class Hellinger(FDivergence):
    """f(t) = 2 - 2 sqrt(t)."""

    def g(self, y):
        return 1 / (y * y)

    def bracket(self, step):
        return jnp.max(step), jnp.max(step) + 1e3


@dataclass
class Elastic(Retention):
    sparsity: float = 0.01
    settles = True
    shrinks = True

    def prox(self, z, step, shrink):
        return soft(z, self.sparsity * shrink)


@dataclass
class ElasticFtrl(Retention):
    sparsity: float = 0.01
    pull = None

    def psi(self, z, frozen):
        return soft(z, self.sparsity)


def lq_norm(z, q):
    return jnp.sum(jnp.abs(z) ** q) ** (1 / q)


@dataclass
class LqExact(Retention):
    q: float = 4.0

    def psi(self, z, frozen):
        return z * jnp.minimum(jnp.abs(z) / lq_norm(frozen, self.q), 1.0) ** (self.q - 2)


@dataclass
class LqLiteral(Retention):
    q: float = 4.0
    floor: float = 1.0

    def psi(self, z, frozen):
        return z / jnp.maximum(lq_norm(frozen, self.q), self.floor) ** (self.q - 2)


@dataclass
class Sigmoid(Retention):
    settles = True

    def psi(self, z, frozen):
        return jax.nn.sigmoid(z)

    def prox(self, z, step, shrink):
        return jnp.clip(z, -30.0, 30.0)


@dataclass
class Tanh(Retention):
    bound: float = 1.0

    settles = True

    def psi(self, z, frozen):
        return self.bound * jnp.tanh(z / self.bound)

    def prox(self, z, step, shrink):
        return jnp.clip(z, -15 * self.bound, 15 * self.bound)


@dataclass
class Sphere(Retention):
    """Length cannot fade, so there is no `retain`."""

    pull = None
    settles = True
    start = "unit"

    def project(self, w, g):
        """Along the sphere through each column, which is longer than one between the inner steps of a token."""
        return g - w * jnp.sum(w * g, axis=0) / jax.vmap(norm, in_axes=1)(w) ** 2

    def prox(self, z, step, shrink):
        return z / jax.vmap(norm, in_axes=1)(z)


@dataclass
class Ball(Retention):
    radius: float = 1.0
    settles = True

    def prox(self, z, step, shrink):
        return z * jnp.minimum(1.0, self.radius / norm(z))


RETENTIONS = {
    "none": No, "l2": L2, "l2_anchor": L2Anchor, "kl": Kl, "chi2": Chi2, "reverse_kl": ReverseKl,
    "hellinger": Hellinger, "elastic": Elastic, "elastic_ftrl": ElasticFtrl, "lq_exact": LqExact,
    "lq_literal": LqLiteral, "sigmoid": Sigmoid, "tanh": Tanh, "sphere": Sphere, "ball": Ball,
}
