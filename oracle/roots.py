"""Roots of monotone functions that automatic differentiation sees through."""

import jax
import jax.numpy as jnp


def root(f, low, high, *args):
    """x with f(x, *args) = 0, element by element; f grows with x and changes sign between `low` and `high`.

    Bisection finds it without a derivative; one Newton step at the root then gives it the implicit one."""
    held = jax.lax.stop_gradient(args)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = f(middle, *held) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jax.lax.stop_gradient((jnp.asarray(low), jnp.asarray(high)))
    low, high = jax.lax.fori_loop(0, 100, halve, ends)
    x = jax.lax.stop_gradient(0.5 * (low + high))
    slope = jax.jvp(lambda x: f(x, *held), (x,), (jnp.ones_like(x),))[1]
    return x - f(x, *args) / jax.lax.stop_gradient(slope)
