"""Values and gradients of `hecate.memory`, against loops written from the equations."""

import threading
import time

import draw
import hecate
import numpy as np
import pytest
from equations import EQUATIONS, gradient, run

# Every rule runs through the binding; values and gradients of the ones with a loop are compared with NumPy's. The
# gradients of all others are held to dual numbers in the Rust crate.
RULES = list(draw.RULES)
LOOPS = list(EQUATIONS)
# float64 on both sides; the sums differ in order only.
EXACT = 1e-12
# float32 against float64 on the same inputs, relative to the largest value.
SINGLE = 1e-5


def close(got, want, tolerance, what):
    assert got.shape == want.shape, f"{what}: {got.shape}, expected {want.shape}"
    scale = max(np.max(np.abs(want), initial=0.0), 1e-30)
    error = np.max(np.abs(got - want), initial=0.0) / scale
    assert error <= tolerance, f"{what}: off by {error:.2e} of its largest value"


def close_dict(got, want, tolerance, what):
    assert got.keys() == want.keys()
    for name in want:
        close(got[name], want[name], tolerance, f"{what}['{name}']")


def kernels(rule, dk, dv):
    return ["auto", "reference"] + [k["name"] for k in draw.row(rule, dk, dv)["kernels"] if k["available"]]


@pytest.mark.parametrize("dk, dv", [(8, 8), (5, 3), (3, 7), (1, 1)])
@pytest.mark.parametrize("rule", LOOPS)
def test_forward_is_the_equation(rule, dk, dv):
    inputs, start = draw.inputs(rule, 9, dk, dv), draw.state(rule, dk, dv)
    y, end = hecate.memory.forward(rule, inputs, start)
    want_y, want_end = run(rule, inputs, start)
    close(y, want_y, EXACT, "y")
    assert end.pop("pos") == 9
    close_dict(end, want_end, EXACT, "state")


@pytest.mark.parametrize("dk, dv", [(4, 4), (5, 3)])
@pytest.mark.parametrize("rule", LOOPS)
def test_vjp_is_the_derivative_of_the_equation(rule, dk, dv):
    inputs, start = draw.inputs(rule, 6, dk, dv), draw.state(rule, dk, dv)
    dy, dstate = draw.cotangents(rule, 6, dk, dv)
    got = hecate.memory.vjp(rule, inputs, dy, start, dstate)
    want = gradient(rule, inputs, start, dy, dstate)
    close_dict(got.pop("state"), want.pop("state"), EXACT, "state")
    close_dict(got, want, EXACT, "gradient of inputs")


@pytest.mark.parametrize("rule", LOOPS)
def test_vjp_is_the_numerical_derivative_of_forward(rule):
    tokens, dk, dv = 70, 4, 3
    inputs, start = draw.inputs(rule, tokens, dk, dv), draw.state(rule, dk, dv)
    dy, dstate = draw.cotangents(rule, tokens, dk, dv)
    gradients = hecate.memory.vjp(rule, inputs, dy, start, dstate)
    rng = np.random.default_rng(7)
    along_inputs = {name: rng.normal(size=x.shape) for name, x in inputs.items()}
    along_state = {name: rng.normal(size=x.shape) for name, x in start.items()}

    def objective(h):
        moved = {name: x + h * along_inputs[name] for name, x in inputs.items()}
        begin = {name: x + h * along_state[name] for name, x in start.items()}
        y, end = hecate.memory.forward(rule, moved, begin)
        return np.sum(dy * y) + sum(np.sum(dstate[name] * end[name]) for name in dstate)

    step = 1e-5
    numerical = (objective(step) - objective(-step)) / (2 * step)
    exact = sum(np.sum(gradients[name] * d) for name, d in along_inputs.items())
    exact += sum(np.sum(gradients["state"][name] * d) for name, d in along_state.items())
    # A central difference is good to step^2 times the third derivative, and to rounding / step.
    assert abs(numerical - exact) <= 1e-6 * abs(exact), (numerical, exact)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("rule", LOOPS)
def test_every_float32_kernel_agrees_with_float64(rule, tokens):
    dk, dv, lead = 16, 8, (2, 3)
    inputs = draw.inputs(rule, tokens, dk, dv, lead=lead, dtype=np.float32)
    start = draw.state(rule, dk, dv, lead=lead, dtype=np.float32)
    dy, dstate = draw.cotangents(rule, tokens, dk, dv, lead=lead, dtype=np.float32)

    def double(arrays):
        return {name: x.astype(np.float64) for name, x in arrays.items()}

    want_y, want_end = hecate.memory.forward(rule, double(inputs), double(start))
    want = hecate.memory.vjp(rule, double(inputs), dy.astype(np.float64), double(start), double(dstate))
    want_end.pop("pos")
    want_state = want.pop("state")
    for kernel in kernels(rule, dk, dv):
        y, end = hecate.memory.forward(rule, inputs, start, kernel)
        assert y.dtype == np.float32 and end.pop("pos") == tokens
        close(y, want_y, SINGLE, f"{kernel}: y")
        close_dict(end, want_end, SINGLE, f"{kernel}: state")
        got = hecate.memory.vjp(rule, inputs, dy, start, dstate, kernel)
        close_dict(got.pop("state"), want_state, SINGLE, f"{kernel}: gradient of the state")
        close_dict(got, want, SINGLE, f"{kernel}: gradient")


@pytest.mark.parametrize("rule", RULES)
def test_a_state_carried_over_a_cut_is_no_cut(rule):
    tokens, lead = 100, (1, 2)
    dk, dv = draw.widths(rule, 6, 5)
    inputs = draw.inputs(rule, tokens, dk, dv, lead=lead)
    start = {**draw.state(rule, dk, dv, lead=lead), "pos": 3}
    whole, end = hecate.memory.forward(rule, inputs, start)
    assert end["pos"] == 103
    for cut in (0, 1, 64, 99, 100):
        head = {name: x[:, :, :cut] for name, x in inputs.items()}
        tail = {name: x[:, :, cut:] for name, x in inputs.items()}
        first, middle = hecate.memory.forward(rule, head, start)
        second, last = hecate.memory.forward(rule, tail, middle)
        assert np.array_equal(np.concatenate([first, second], axis=2), whole)
        assert all(np.array_equal(last[name], end[name]) for name in end)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_chained_over_a_cut_are_those_of_one_call(rule):
    tokens, cut = 90, 33
    dk, dv = draw.widths(rule, 4, 5)
    inputs, start = draw.inputs(rule, tokens, dk, dv), draw.state(rule, dk, dv)
    dy, dstate = draw.cotangents(rule, tokens, dk, dv)
    want = hecate.memory.vjp(rule, inputs, dy, start, dstate)
    head = {name: x[:cut] for name, x in inputs.items()}
    tail = {name: x[cut:] for name, x in inputs.items()}
    _, middle = hecate.memory.forward(rule, head, start)
    second = hecate.memory.vjp(rule, tail, dy[cut:], middle, dstate)
    first = hecate.memory.vjp(rule, head, dy[:cut], start, second["state"])
    close_dict(first["state"], want["state"], EXACT, "state")
    for name in inputs:
        close(np.concatenate([first[name], second[name]]), want[name], EXACT, name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_batch_and_heads_do_not_touch_each_other(rule, dtype):
    tokens, dk, dv, lead = 40, 8, 8, (2, 3)
    inputs = draw.inputs(rule, tokens, dk, dv, lead=lead, dtype=dtype)
    start = draw.state(rule, dk, dv, lead=lead, dtype=dtype)
    dy, dstate = draw.cotangents(rule, tokens, dk, dv, lead=lead, dtype=dtype)
    y, end = hecate.memory.forward(rule, inputs, start)
    gradients = hecate.memory.vjp(rule, inputs, dy, start, dstate)
    for at in np.ndindex(lead):
        one = {name: x[at] for name, x in inputs.items()}
        begin = {name: x[at] for name, x in start.items()}
        cotangent = {name: x[at] for name, x in dstate.items()}
        y_one, end_one = hecate.memory.forward(rule, one, begin)
        assert np.array_equal(y_one, y[at])
        assert all(np.array_equal(end_one[name], end[name][at]) for name in begin)
        alone = hecate.memory.vjp(rule, one, dy[at], begin, cotangent)
        assert all(np.array_equal(alone[name], gradients[name][at]) for name in inputs)
        assert all(np.array_equal(alone["state"][name], gradients["state"][name][at]) for name in begin)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_left_out_of_a_state_is_as_the_rule_starts(rule):
    dk, dv = draw.widths(rule, 4, 3)
    inputs = draw.inputs(rule, 5, dk, dv)
    start = hecate.memory.start(rule, dk, dv, seed=3)
    want, _ = hecate.memory.forward(rule, inputs, start)
    tensors = draw.row(rule, dk, dv)["state"]
    learned = [t["name"] for t in tensors if t["start"] == "learned"]
    dy, _ = draw.cotangents(rule, 5, dk, dv)
    full = hecate.memory.vjp(rule, inputs, dy, start)
    if learned:
        # The rest follows: momenta are zero, anchors are what they anchor.
        enough = {name: start[name] for name in learned}
        assert np.array_equal(hecate.memory.forward(rule, inputs, enough)[0], want)
        for state in (None, {}, {name: start[name] for name in learned[1:]}):
            with pytest.raises(ValueError, match=rf"`{learned[0]}`.*hecate\.memory\.start\('{rule}', {dk}, {dv}\)"):
                hecate.memory.forward(rule, inputs, state)
    else:
        for state in (None, {}, {"pos": 0}):
            assert np.array_equal(hecate.memory.forward(rule, inputs, state)[0], want)
        empty = hecate.memory.vjp(rule, inputs, dy)
        assert all(np.array_equal(full[name], empty[name]) for name in inputs)
    for t in tensors:
        if t["start"] == "zero":
            assert not start[t["name"]].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_start_has_heads_that_differ_and_sequences_that_agree(dtype):
    start = hecate.memory.start("titans_mlp", 4, 4, heads=3, batch=2, seed=1, dtype=dtype)
    assert start["pos"] == 0 and start["W1"].dtype == dtype and start["W1"].shape == (2, 3, 4, 16)
    assert np.array_equal(start["W1"][0], start["W1"][1])
    assert not np.array_equal(start["W1"][0, 0], start["W1"][0, 1])
    again = hecate.memory.start("titans_mlp", 4, 4, seed=1, dtype=dtype)
    assert np.array_equal(again["W1"], start["W1"][0, 0])
    assert not np.array_equal(hecate.memory.start("titans_mlp", 4, 4, seed=2, dtype=dtype)["W1"], again["W1"])


@pytest.mark.parametrize("rule", LOOPS)
def test_tensors_that_start_at_zero_may_be_left_out_of_a_gradient(rule):
    inputs = draw.inputs(rule, 5, 4, 3)
    zero = {name: np.zeros_like(x) for name, x in draw.state(rule, 4, 3).items()}
    dy, _ = draw.cotangents(rule, 5, 4, 3)
    want, _ = hecate.memory.forward(rule, inputs, zero)
    for state in (None, {}, {"pos": 0}):
        assert np.array_equal(hecate.memory.forward(rule, inputs, state)[0], want)
    full, empty = hecate.memory.vjp(rule, inputs, dy, zero, zero), hecate.memory.vjp(rule, inputs, dy)
    assert all(np.array_equal(full[name], empty[name]) for name in inputs)


@pytest.mark.parametrize("lead", [(), (2, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_tokens_and_no_heads_are_fine(lead, dtype):
    for tokens in (0, 2):
        inputs = draw.inputs("titans", tokens, 4, 3, lead=lead, dtype=dtype)
        start = draw.state("titans", 4, 3, lead=lead, dtype=dtype)
        y, end = hecate.memory.forward("titans", inputs, start)
        assert y.shape == (*lead, tokens, 3)
        gradients = hecate.memory.vjp("titans", inputs, y, start, start)
        if tokens == 0:
            assert all(np.array_equal(end[name], start[name]) for name in start)
            assert all(np.array_equal(gradients["state"][name], start[name]) for name in start)


def test_strides_byte_order_and_alignment_do_not_matter():
    inputs, start = draw.inputs("titans", 12, 6, 4), draw.state("titans", 6, 4)
    want, _ = hecate.memory.forward("titans", inputs, start)

    def odd(x):
        record = np.zeros(x.shape, dtype=[("pad", "i1"), ("x", x.dtype)])
        record["x"] = x
        return record["x"]

    forms = {
        "Fortran order": np.asfortranarray,
        "reversed twice": lambda x: np.ascontiguousarray(x[::-1])[::-1],
        "every other": lambda x: np.repeat(x, 2, axis=0)[::2],
        "broadcast back": lambda x: np.broadcast_to(x, (2, *x.shape))[1],
        "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
        "unaligned": odd,
        "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    }
    for what, form in forms.items():
        changed = {name: form(x) for name, x in inputs.items()}
        begin = {name: form(x) for name, x in start.items()}
        y, _ = hecate.memory.forward("titans", changed, begin)
        assert y.dtype.isnative and np.array_equal(y, want), what


def test_arguments_are_not_changed_and_results_are_writable():
    inputs, start = draw.inputs("titans", 12, 6, 4), draw.state("titans", 6, 4)
    dy, dstate = draw.cotangents("titans", 12, 6, 4)
    groups = [inputs, start, dstate, {"dy": dy}]
    before = [{name: x.copy() for name, x in group.items()} for group in groups]
    y, end = hecate.memory.forward("titans", inputs, start)
    gradients = hecate.memory.vjp("titans", inputs, dy, start, dstate)
    y += 1
    end["W"] += 1
    gradients["k"] += 1
    assert all(np.array_equal(old[name], new[name]) for old, new in zip(before, groups) for name in old)


def test_a_rule_is_a_name_or_a_dict():
    for rule in RULES:
        inputs, start = draw.inputs(rule, 4, 4, 4), hecate.memory.start(rule, 4, 4)
        by_name, _ = hecate.memory.forward(rule, inputs, start)
        by_dict, _ = hecate.memory.forward({"name": rule}, inputs, start)
        assert np.array_equal(by_name, by_dict)


def test_the_interpreter_is_released():
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    def call(tokens):
        inputs = draw.inputs("titans", tokens, 32, 32)
        start = time.perf_counter()
        hecate.memory.forward("titans", inputs)
        return start, time.perf_counter()

    thread = threading.Thread(target=tick)
    thread.start()
    # Long enough that a thread which wants the interpreter every millisecond must get it in the middle of the call.
    for tokens in (50_000, 200_000, 800_000):
        start, end = call(tokens)
        if end - start > 0.3:
            break
    done.set()
    thread.join()
    margin = 0.1 * (end - start)
    assert any(start + margin < t < end - margin for t in ticks), f"no tick in {end - start:.3f} s"


def test_threads_get_what_one_call_gets():
    inputs = draw.inputs("titans", 500, 16, 16, lead=(2, 2), dtype=np.float32)
    want, _ = hecate.memory.forward("titans", inputs)
    results = [None] * 4

    def work(i):
        results[i] = hecate.memory.forward("titans", inputs)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, want) for result in results)
