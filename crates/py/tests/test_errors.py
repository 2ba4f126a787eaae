"""Every wrong argument is refused in one line that names it, what was expected, and what to do."""

import draw
import hecate
import numpy as np
import pytest


def without(arrays, name):
    return {key: x for key, x in arrays.items() if key != name}


TITANS = draw.inputs("titans", 5, 4, 3)
SINGLE = {name: x.astype(np.float32) for name, x in TITANS.items()}
BATCH = draw.inputs("titans", 5, 4, 3, lead=(2, 3))
STATE = draw.state("titans", 4, 3)
DY, DSTATE = draw.cotangents("titans", 5, 4, 3)

# arguments, exception, what its message must say
FORWARD = {
    "unknown rule": (("titan", TITANS), ValueError, "unknown rule `titan`", "linear_attention", "titans"),
    "unknown rule in a dict": (({"name": "titan"}, TITANS), ValueError, "rule:", "titan`", "titans"),
    "dict without name": (({}, TITANS), ValueError, "rule:", "`name`"),
    "unknown key of a rule": (({"name": "titans", "retian": 1}, TITANS), ValueError, "rule:", "retian"),
    "rule of a wrong type": ((7, TITANS), TypeError, "rule is of type int", "name"),
    "missing input": (("titans", without(TITANS, "rate")), ValueError, "`rate` is missing", "k, v, q, retain"),
    "unknown input": (("titans", {**TITANS, "rates": DY}), ValueError, "unknown name `rates`", "rate, momentum"),
    "input name of a wrong type": (("titans", {**TITANS, 7: DY}), TypeError, "inputs", "7"),
    "inputs of a wrong type": (("titans", list(TITANS)), TypeError, "inputs"),
    "a list": (("titans", {**TITANS, "k": [[1.0]]}), TypeError, "inputs['k']", "list", "numpy.asarray"),
    "integers": (("titans", {**TITANS, "k": np.ones((5, 4), int)}), TypeError, "inputs['k']", "int64", "astype"),
    "half precision": (("titans", {**TITANS, "v": DY.astype("f2")}), TypeError, "inputs['v']", "float16"),
    "objects": (("titans", {**TITANS, "v": DY.astype(object)}), TypeError, "inputs['v']", "object"),
    "mixed types": (("titans", {**TITANS, "v": SINGLE["v"]}), TypeError, "inputs['v'] holds float32", "inputs['k']"),
    "mixed types in the state": (
        ("titans", SINGLE, STATE), TypeError, "state['W'] holds float64", "inputs['k'] holds float32",
    ),
    "keys of one axis": (("titans", {**TITANS, "k": DY[0]}), ValueError, "inputs['k']", "(3,)", "[B, H, T, width]"),
    "keys of three axes": (("titans", {**TITANS, "k": DY[None]}), ValueError, "inputs['k']", "(1, 5, 3)"),
    "wider queries": (("titans", {**TITANS, "q": np.ones((5, 6))}), ValueError, "inputs['q']", "(5, 6)", "(5, 4)"),
    "more values": (("titans", {**TITANS, "v": np.ones((6, 3))}), ValueError, "inputs['v']", "(6, 3)", "(5, 3)"),
    "gate with an axis too many": (
        ("titans", {**TITANS, "rate": np.ones((5, 1))}), ValueError, "inputs['rate']", "(5, 1)", "(5,)", "per token",
    ),
    "gate without heads": (("titans", {**BATCH, "rate": np.ones(5)}), ValueError, "inputs['rate']", "(2, 3, 5)"),
    "no width": (
        ("titans", {**TITANS, "k": np.ones((5, 0)), "q": np.ones((5, 0))}), ValueError, "widths 0 and 3",
    ),
    "unknown tensor": (("titans", TITANS, {"M": DY}), ValueError, "state: unknown tensor `M`", "W, S"),
    "shape of a tensor": (("titans", TITANS, {"W": DY}), ValueError, "state['W']", "(5, 3)", "(3, 4)"),
    "tensor without heads": (("titans", BATCH, STATE), ValueError, "state['W']", "(3, 4)", "(2, 3, 3, 4)"),
    "negative pos": (("titans", TITANS, {"pos": -1}), ValueError, "state['pos'] is -1"),
    "pos of a wrong type": (("titans", TITANS, {"pos": "3"}), ValueError, "state['pos'] is 3"),
    "state of a wrong type": (("titans", TITANS, [STATE]), TypeError, "state"),
    "unknown kernel": (("titans", SINGLE, None, "fastest"), ValueError, "`fastest`", "auto, reference"),
    "unknown kernel in float64": (("titans", TITANS, None, "fastest"), ValueError, "`fastest`", "float64", "float32"),
}

VJP = {
    "shape of dy": (("titans", TITANS, DY[:4]), ValueError, "dy has shape (4, 3)", "(5, 3)"),
    "type of dy": (("titans", TITANS, DY.astype(np.float32)), TypeError, "dy holds float32"),
    "dy of a wrong type": (("titans", TITANS, None), TypeError, "dy", "NoneType"),
    "unknown tensor in dstate": (("titans", TITANS, DY, None, {"M": DY}), ValueError, "dstate", "`M`", "W, S"),
    "pos in dstate": (("titans", TITANS, DY, None, {"pos": 3}), ValueError, "dstate", "`pos`", "W, S"),
    "shape in dstate": (("titans", TITANS, DY, None, {"W": DY}), ValueError, "dstate['W']", "(3, 4)"),
    "unknown kernel": (("titans", SINGLE, SINGLE["v"], None, None, "fastest"), ValueError, "`fastest`"),
}


def refused(function, arguments, exception, parts):
    with pytest.raises(exception) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message, message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD.keys())
def test_forward_refuses(case):
    arguments, exception, *parts = case
    refused(hecate.memory.forward, arguments, exception, parts)


@pytest.mark.parametrize("case", VJP.values(), ids=VJP.keys())
def test_vjp_refuses(case):
    arguments, exception, *parts = case
    refused(hecate.memory.vjp, arguments, exception, parts)


def test_a_kernel_name_is_checked_even_without_tokens():
    empty = {name: x[:0] for name, x in SINGLE.items()}
    refused(hecate.memory.forward, ("titans", empty, None, "fastest"), ValueError, ["`fastest`"])


def test_an_impossible_size_is_a_memory_error_and_no_crash():
    wide = {name: np.zeros((1, 3_000_000), np.float32) if name in "kvq" else np.zeros(1, np.float32) for name in TITANS}
    refused(hecate.memory.forward, ("titans", wide), MemoryError, ["state", "18000000000000"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_memory_that_ceases_to_be_finite_names_its_place(dtype):
    broken = {name: x.astype(dtype) for name, x in BATCH.items()}
    broken["v"][1, 2, 3, 0] = np.nan
    refused(hecate.memory.forward, ("titans", broken), FloatingPointError, ["titans: non-finite v", "head 5", "token 3"])
    refused(
        hecate.memory.vjp, ("titans", broken, np.zeros_like(broken["v"])), FloatingPointError, ["head 5", "token 3"]
    )
    steep = {name: x.astype(dtype) for name, x in TITANS.items()}
    steep["rate"][:] = np.finfo(dtype).max
    refused(hecate.memory.forward, ("titans", steep), FloatingPointError, ["titans", "head 0"])
