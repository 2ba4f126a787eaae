"""Associative memories as plain objects."""

import draw
import hecate
import numpy as np
import pytest
from hecate.memory import AssociativeMemory, PairMemory


def pairs(n, dk, dv, dtype=np.float64):
    rng = np.random.default_rng(n)
    keys = rng.normal(size=(n, dk))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return keys.astype(dtype), rng.normal(size=(n, dv)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", list(draw.RULES))
def test_every_rule_learns_pairs_and_forgets_them_at_a_reset(rule, dtype):
    # What is read changes at the end of a chunk alone; the rule's own has 64 tokens.
    short = {"self_modifying": {"name": "self_modifying", "chunk": 4, "chunk_memory": 8}}
    memory = AssociativeMemory(short.get(rule, rule), 8, 8, seed=1, dtype=dtype)
    keys, values = pairs(20, 8, 8, dtype)
    empty = memory.read(keys)
    memory.write(keys[:9], values[:9])
    fork = memory.copy()
    memory.write(keys[9:], values[9:])
    answers = memory.read(keys)
    assert answers.dtype == dtype and answers.shape == (20, 8) and np.isfinite(answers).all()
    assert not np.array_equal(answers, empty)
    for key, value in zip(keys[9:], values[9:]):
        fork.write(key, value)
    assert np.array_equal(fork.read(keys), answers) and fork.written == 20
    memory.reset()
    assert memory.written == 0 and np.array_equal(memory.read(keys), empty)


def test_its_state_goes_on_in_a_sequence_and_back():
    memory = AssociativeMemory("titans_mlp", 4, 4, seed=7)
    start = hecate.memory.start("titans_mlp", 4, 4, seed=7)
    assert all(np.array_equal(memory.state[name], start[name]) for name in start)
    keys, values = pairs(6, 4, 4)
    memory.write(keys, values, retain=0.9, rate=np.full(6, 0.05), momentum=0.5)
    gates = {"retain": np.full(6, 0.9), "rate": np.full(6, 0.05), "momentum": np.full(6, 0.5)}
    y, end = hecate.memory.forward("titans_mlp", {"k": keys, "v": values, "q": keys, **gates}, start)
    state = memory.state
    assert all(np.array_equal(state[name], end[name]) for name in end)
    assert np.array_equal(memory.read(keys[-1]), y[-1])


def test_orthogonal_keys_are_recalled_exactly_by_the_delta_rule():
    memory = AssociativeMemory("delta", 4, 3)
    values = np.arange(12.0).reshape(4, 3)
    memory.write(np.eye(4), values, rate=1.0)
    assert np.array_equal(memory.read(np.eye(4)), values)
    assert np.array_equal(memory.read(np.eye(4)[2]), values[2])
    memory.write(np.eye(4)[2], -values[2], rate=np.float64(1.0))
    assert np.array_equal(memory.read(np.eye(4)[2]), -values[2])


def test_pairs_are_recalled_by_kernel_regression():
    keys, values = pairs(12, 5, 3)
    queries, _ = pairs(4, 5, 3)
    for window, sharpness in [(None, None), (None, 0.0), (7, 3.0)]:
        memory = PairMemory(5, 3, window=window, sharpness=sharpness)
        assert not memory.read(queries).any()
        memory.write(keys[:5], values[:5])
        memory.write(keys[5:], values[5:])
        k, v = (keys, values) if window is None else (keys[-window:], values[-window:])
        weights = np.exp((np.sqrt(5) if sharpness is None else sharpness) * queries @ k.T)
        want = weights / weights.sum(axis=1, keepdims=True) @ v
        assert np.allclose(memory.read(queries), want, rtol=1e-13, atol=1e-13)
        assert np.array_equal(memory.state["keys"], k) and np.array_equal(memory.state["values"], v)
        assert memory.written == 12
        fork = memory.copy()
        memory.reset()
        assert not memory.read(queries).any() and fork.written == 12


KEYS, VALUES = pairs(3, 4, 2)
REFUSED = {
    "unknown rule": (lambda: AssociativeMemory("titan", 4, 2), ValueError, "titans"),
    "no width": (lambda: AssociativeMemory("titans", 0, 2), ValueError, "widths 0 and 2"),
    "impossible widths": (lambda: AssociativeMemory("titans_mlp", 4, 2), ValueError, "key width 4"),
    "dtype": (lambda: AssociativeMemory("titans", 4, 2, dtype="float16"), ValueError, "float16"),
    "keys": (lambda: AssociativeMemory("titans", 3, 2).write(KEYS, VALUES), ValueError, "keys has shape (3, 4)"),
    "count": (lambda: AssociativeMemory("titans", 4, 2).write(KEYS, VALUES[:2]), ValueError, "3 keys and 2 values"),
    "type": (lambda: AssociativeMemory("titans", 4, 2).write(KEYS.astype("f4"), VALUES), TypeError, "float32"),
    "gate": (lambda: AssociativeMemory("delta", 4, 2).write(KEYS, VALUES, retain=1.0), ValueError, "`retain`"),
    "gates": (lambda: AssociativeMemory("delta", 4, 2).write(KEYS, VALUES, rate=np.ones(2)), ValueError, "rate"),
    "queries": (lambda: AssociativeMemory("delta", 4, 2).read(VALUES), ValueError, "queries has shape (3, 2)"),
    "window": (lambda: PairMemory(4, 2, window=0), ValueError, "window of 0"),
    "sharpness": (lambda: PairMemory(4, 2, sharpness=-1.0), ValueError, "sharpness"),
    "pairs": (lambda: PairMemory(4, 2).write(KEYS, KEYS), ValueError, "values has shape (3, 4)"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_refused(case):
    call, exception, part = case
    with pytest.raises(exception) as caught:
        call()
    assert part in str(caught.value), caught.value
