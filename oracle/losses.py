"""Inner losses of a prediction p for a value v (spec A.2). `residual` is the gradient with respect to p: by automatic
differentiation of `loss` where there is one, as printed where the rule descends no loss."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from roots import root

ABS = 1e-6  # |x| is sqrt(x^2 + ABS)
SHARP = 10.0  # sign(x) is tanh(SHARP x) in the form of the paper


def absolute(x):
    return jnp.sqrt(x * x + ABS)


def norm(x):
    return jnp.sqrt(jnp.sum(x * x) + 1e-24)


class Bias:
    threshold = False  # whether a token brings one

    def residual(self, p, v, threshold):
        return jax.grad(self.loss)(p, v, threshold)


@dataclass
class L2(Bias):
    def loss(self, p, v, threshold):
        return 0.5 * jnp.sum((p - v) ** 2)

    def implicit(self, e, s, threshold):
        return e / (1 + s)


@dataclass
class Dot(Bias):
    def loss(self, p, v, threshold):
        return -jnp.sum(p * v)


@dataclass
class Lp(Bias):
    p: float = 3.0
    form: str = "smooth"

    def loss(self, p, v, threshold):
        return jnp.sum(absolute(p - v) ** self.p) / self.p

    def residual(self, p, v, threshold):
        if self.form == "smooth":
            return super().residual(p, v, threshold)
        # As printed: an approximate sign, and the factor p of the undivided loss.
        return self.p * jnp.tanh(SHARP * (p - v)) * absolute(p - v) ** (self.p - 1)

    def implicit(self, e, s, threshold):
        """r = l'(e*), where e* + s l'(e*) = e: the left side grows with e*, which lies between 0 and e."""
        slope = lambda x: x * absolute(x) ** (self.p - 2)
        ahead = lambda x, e, s: x + s * slope(x) - e
        return slope(root(ahead, jnp.minimum(e, 0.0), jnp.maximum(e, 0.0), e, s))


@dataclass
class L1(Lp):
    p: float = 1.0

    def implicit(self, e, s, threshold):
        return jnp.clip(e / s, -1.0, 1.0)


@dataclass
class Huber(Bias):
    """Every coordinate on its own."""

    threshold = True

    def loss(self, p, v, threshold):
        e = jnp.abs(p - v)
        return jnp.sum(jnp.where(e <= threshold, 0.5 * e * e, threshold * (e - 0.5 * threshold)))

    def residual(self, p, v, threshold):
        return jnp.clip(p - v, -threshold, threshold)

    def implicit(self, e, s, threshold):
        return jnp.clip(e / (1 + s), -threshold, threshold)


@dataclass
class HuberNorm(Bias):
    threshold = True

    def loss(self, p, v, threshold):
        e = norm(p - v)
        return jnp.where(e <= threshold, 0.5 * e * e, threshold * (e - 0.5 * threshold))


@dataclass
class HuberSwitch(Bias):
    """No loss: the two gradients are joined with a jump."""

    threshold = True

    def residual(self, p, v, threshold):
        e = p - v
        return jnp.where(norm(e) <= threshold, e, threshold * e / absolute(e))


@dataclass
class Robust(Bias):
    """The worst case over values within `shift` of v. The length is smoothed, so that the memory comes to rest."""

    shift: float = 0.1

    def loss(self, p, v, threshold):
        return 0.5 * (jnp.sum((p - v) ** 2) + 2 * self.shift * self.length(p - v) + self.shift**2)

    def length(self, e):
        return jnp.sqrt(jnp.sum(e * e) + ABS)


@dataclass
class Kl(Bias):
    """KL(softmax(v) // softmax(p))."""

    def loss(self, p, v, threshold):
        return jnp.sum(jax.nn.softmax(v) * (jax.nn.log_softmax(v) - jax.nn.log_softmax(p)))


BIASES = {
    "l2": L2, "dot": Dot, "lp": Lp, "l1": L1, "huber": Huber, "huber_norm": HuberNorm,
    "huber_switch": HuberSwitch, "robust": Robust, "kl": Kl,
}
