"""Golden vectors for the memory rules, from their equations alone.

Nothing here knows the Rust code. Each rule is its inner loss, the gradient of that loss by automatic
differentiation, and the recurrence around it; the gradients of the whole stream come from differentiating
that recurrence once more. Everything is float64.

    python oracle.py OUT_FOLDER [RULE...]

writes one `<rule>.safetensors` per rule. Each file holds several cases; a tensor is called `case.name`:
`in.*` inputs `[T, width]` (gates `[T]`), `state0.*` and `end.*` the state, `Y` the reads `[T, dv]`, `dY` and
`dEnd.*` cotangents, `din.*` and `dstate0.*` the gradients of sum(dY * Y) + sum(dEnd * end). The metadata of the
file say, per case, which rule it is: as a config file writes it, in JSON.
"""

import json
import sys
from pathlib import Path
from zlib import crc32

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from cases import CASES, FIRST
from draw import draw_inputs, draw_state
from miras import Miras
from presets import PRESETS
from rules import OWN, Rule


def build(settings, dk, dv):
    """The rule that a config file means."""
    settings = dict(settings)
    name = settings.pop("name")
    if name in OWN:
        return OWN[name](dk, dv, **settings)
    kind, preset = PRESETS[name]
    if kind != "miras":
        return OWN[kind](dk, dv, **(preset | settings))
    rule = Miras(dk, dv, **(preset | settings))
    return Rule(rule.inputs(), rule.state(), rule.token, rule.retention.start)


def run(rule, inputs, state, tokens):
    """The stream, token by token: the reads and the end state."""
    reads = []
    for t in range(tokens):
        state, y = rule.token(state, {name: value[t] for name, value in inputs.items()}, t)
        reads.append(y)
    return jnp.stack(reads), {name: state[name] for name in rule.state}


def make(settings, seed, dk, dv, tokens, edges=False, rate=1.0):
    """One case as a flat dict of arrays."""
    rule = build(settings, dk, dv)
    rng = np.random.default_rng(seed)
    inputs = draw_inputs(rng, rule, tokens, edges, rate)
    state = draw_state(rng, rule)
    dy = rng.normal(size=(tokens, dv))
    dend = {name: rng.normal(size=shape) for name, shape in rule.state.items()}

    def objective(inputs, state):
        reads, end = run(rule, inputs, state, tokens)
        return jnp.sum(dy * reads) + sum(jnp.sum(dend[name] * end[name]) for name in dend), (reads, end)

    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (_, (reads, end)), (dinputs, dstate) = gradient(inputs, state)
    out = {"Y": reads, "dY": dy}
    for group, values in [("in", inputs), ("din", dinputs), ("state0", state), ("end", end)]:
        out |= {f"{group}.{name}": value for name, value in values.items()}
    for group, values in [("dEnd", dend), ("dstate0", dstate)]:
        out |= {f"{group}.{name}": value for name, value in values.items()}
    bad = [name for name, value in out.items() if not np.all(np.isfinite(value)) or np.max(np.abs(value)) > 1e6]
    assert not bad, f"{settings}: {bad} out of bounds"
    return out


def main(folder, chosen):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, cases in CASES.items():
        if chosen and name not in chosen:
            continue
        arrays, settings = {}, {}
        for index, (label, case) in enumerate(cases.items()):
            case = dict(case)
            settings[label] = {"name": name} | case.pop("settings", {})
            seed = [FIRST.index(name), index] if name in FIRST else crc32(f"{name}.{label}".encode())
            made = make(settings[label], seed, **case)
            arrays |= {f"{label}.{key}": np.ascontiguousarray(value, np.float64) for key, value in made.items()}
        metadata = {label: json.dumps(rule) for label, rule in settings.items()}
        save_file(arrays, folder / f"{name}.safetensors", metadata)
        print(f"{name}: {len(arrays)} arrays, {len(cases)} cases", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
