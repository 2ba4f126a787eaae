"""The table of rules, the doc-tests, and the type stubs."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import draw
import hecate
import pytest
from hecate import _hecate

STUBS = ast.parse(Path(_hecate.__file__).with_name("_hecate.pyi").read_text())


@pytest.mark.parametrize("row", hecate.rules(), ids=lambda row: row["name"])
def test_every_rule_is_told_completely(row):
    for key in ("equation", "source", "structure", "features", "bias", "retention", "algorithm"):
        assert row[key], key
    assert row["chunk"] in ("exact", "frozen", "sequential")
    # HGRN2 has no key: what a channel does not keep stands in its place. Self-modifying memories make both of `x`.
    made = {"x"} if row["name"].startswith("self_modifying") else {"v"}
    assert made | {"q"} <= {entry["name"] for entry in row["inputs"]}
    assert all(entry["about"] for entry in row["inputs"])
    assert row["state"] and all(all(side > 0 for side in tensor["shape"]) for tensor in row["state"])
    assert all(tensor["start"] in ("zero", "learned", "identity", "same") for tensor in row["state"])
    assert all(entry["default"] is None for entry in row["inputs"] if entry["name"] in ("k", "v", "q"))
    assert all(kernel["about"] for kernel in row["kernels"])


def test_the_sizes_of_the_table_follow_the_widths():
    for row in hecate.rules(dk=5, dv=3):
        widths = {"scalar": 1, "key": 5, "value": 3}
        assert all(i["width"] == widths[i["kind"]] for i in row["inputs"] if i["kind"] in widths)
        if row["name"] in draw.ANYWHERE:
            assert all(t["shape"] == (3, 5) for t in row["state"])


def test_what_the_table_tells_is_what_a_call_takes():
    for rule in draw.RULES:
        dk, dv = draw.widths(rule, 5, 3)
        row = draw.row(rule, dk, dv)
        inputs = draw.inputs(rule, 4, dk, dv)
        _, state = hecate.memory.forward(rule, inputs, hecate.memory.start(rule, dk, dv))
        assert {name: x.shape for name, x in state.items() if name != "pos"} == {
            t["name"]: t["shape"] for t in row["state"]
        }


def test_the_example_of_the_package_is_true():
    for module in (hecate, hecate.classifier, hecate.memory):
        results = doctest.testmod(module)
        assert results.attempted > 0 and results.failed == 0


def test_everything_public_is_documented():
    for owner, names in [
        (hecate, hecate.__all__),
        (hecate.memory, hecate.memory.__all__),
        *((cls, dir(cls)) for cls in (hecate.Classifier, hecate.Model, hecate.State, hecate.Generation)),
        *((cls, dir(cls)) for cls in (hecate.memory.AssociativeMemory, hecate.memory.PairMemory)),
    ]:
        for name in names:
            assert name.startswith("_") or inspect.getdoc(getattr(owner, name)), name


def test_the_stubs_list_exactly_what_there_is():
    stubs = {node.name for node in STUBS.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    native = {name for name in dir(_hecate) if not name.startswith("_")}
    assert {name for name in stubs if not name.startswith("_")} == native


def test_the_stubs_have_the_signatures_of_the_functions():
    for node in STUBS.body:
        if isinstance(node, ast.FunctionDef):
            check_signature(node, getattr(_hecate, node.name))


def test_the_stubs_have_the_members_of_the_classes():
    for node in STUBS.body:
        if isinstance(node, ast.ClassDef) and not keyed(node):
            native = getattr(_hecate, node.name)
            members = {member.name: member for member in node.body if not member.name.startswith("_")}
            assert set(members) == {name for name in dir(native) if not name.startswith("_")}
            for name, member in members.items():
                if not member.decorator_list:
                    check_signature(member, getattr(native, name))


def check_signature(node, function):
    last = [node.args.kwarg] if node.args.kwarg else []
    names = [argument.arg for argument in node.args.args + node.args.kwonlyargs + last]
    defaults = [ast.literal_eval(default) for default in node.args.defaults + node.args.kw_defaults]
    parameters = list(inspect.signature(function).parameters.values())
    assert names == [p.name for p in parameters], node.name
    assert defaults == [p.default for p in parameters if p.default is not p.empty], node.name


def test_the_stubs_have_the_keys_of_the_table():
    classes = {n.name: [f.target.id for f in n.body] for n in STUBS.body if isinstance(n, ast.ClassDef) and keyed(n)}
    row = hecate.rules()[0]
    assert classes["_RuleRow"] == list(row)
    assert classes["_Input"] == list(row["inputs"][0])
    assert classes["_StateTensor"] == list(row["state"][0])
    for kernel in row["kernels"]:
        assert classes["_Kernel"] == list(kernel)


def keyed(node):
    return any(isinstance(base, ast.Name) and base.id == "TypedDict" for base in node.bases)


def test_the_package_is_typed_and_versioned():
    assert importlib.resources.files("hecate").joinpath("py.typed").is_file()
    assert hecate.__version__.count(".") == 2
