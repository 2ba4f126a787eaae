"""`hecate.Classifier`: learning task after task, files, and the errors that users see."""

import copy
import pickle
import subprocess
import sys

import hecate
import numpy as np
import pytest


def points(task, count, seed):
    """Two classes on either side of a line, another line for each task."""
    X = np.random.default_rng(seed).normal(size=(count, 3))
    side = X[:, 0] + X[:, 1] > 0 if task == 0 else X[:, 1] > X[:, 2]
    return X, np.where(side, f"yes{task}", f"no{task}")


def taught(**params):
    """Two tasks, one after the other."""
    params = {"heads": "per_task", "width": 16, **params}
    model = hecate.Classifier(**params)
    for task in range(2):
        model.partial_fit(*points(task, 150, task), task=task, epochs=15)
    return model


def test_two_tasks_are_kept_and_told_apart_by_their_label():
    model = taught()
    for task in range(2):
        X, y = points(task, 300, 9)
        assert model.score(X, y, task=task) > 0.9
        p = model.predict_proba(X, task=task)
        others = [i for i, label in enumerate(model.classes_) if not label.endswith(str(task))]
        assert p.shape == (300, 4) and np.allclose(p.sum(axis=1), 1) and (p[:, others] == 0).all()
    assert list(model.classes_) == ["no0", "no1", "yes0", "yes1"] and model.tasks_ == [0, 1]
    free = model.predict_proba(X)
    assert np.allclose(free.sum(axis=1), 1) and (free > 0).any(axis=0).all()


def test_one_head_is_never_told_the_task():
    model = hecate.Classifier(width=16, replay_share=1.0)
    classes = ["no0", "yes0", "no1", "yes1"]
    for task in range(2):
        X, y = points(task, 150, task)
        model.partial_fit(X, y, classes=classes if task == 0 else None, task=task, epochs=15)
    assert np.array_equal(model.predict(X), model.predict(X, task=0))
    assert set(model.predict(X)) <= set(classes)


@pytest.mark.parametrize(
    "params",
    [
        {"preset": "fast_adapt"},
        {"preset": "high_retention"},
        {"task_embedding": True},
        {"width": 32},
        {"hidden": 8},
        {"periods": [32, 320]},
        {"blocks": [{"mixer": {"type": "none"}, "channel": {"type": "mlp", "hidden": 8}}]},
        {"rate": 1e-3},
        {"batch_size": 16},
        {"optimizer": "sgd"},
        {"optimizer": {"name": "adamw", "beta2": 0.9}},
        {"replay": 5},
        {"replay_share": 1.0},
        {"decay": 1.0},
        {"decay_towards": "task_start"},
        {"standardize": False},
        {"samples": 10_000},
        {"tasks": 3},
        {"random_state": 1},
    ],
    ids=str,
)
def test_every_parameter_is_read(params):
    X, _ = points(0, 20, 5)
    assert not np.array_equal(taught(**params).predict_proba(X, task=0), taught().predict_proba(X, task=0))


def test_parameters_of_fit_and_of_self_update_are_read():
    X, y = points(0, 100, 0)
    plain = hecate.Classifier().fit(X, y)
    assert not np.array_equal(hecate.Classifier(epochs=3).fit(X, y).predict_proba(X), plain.predict_proba(X))
    assert hecate.Classifier(confidence=0.0).fit(X, y).self_update(X) == 100
    assert hecate.Classifier(confidence=1.0).fit(X, y).self_update(X) < 100
    one, many = (hecate.Classifier(confidence=0.0, chunk_size=n).fit(X, y) for n in (100, 10))
    assert one.self_update(X) == many.self_update(X)
    assert not np.array_equal(one.predict_proba(X), many.predict_proba(X))


def test_parts_of_a_sample_are_mixed_and_projections_frozen():
    X, y = points(0, 100, 0)
    attention = {"type": "attention", "heads": 2}
    blocks = [{"mixer": attention, "channel": {"type": "mlp", "hidden": 8}}]
    common = {"patches": 3, "blocks": blocks, "width": 32}
    models = [hecate.Classifier(freeze=freeze, **common).fit(X, y) for freeze in (None, ("k", "q"))]
    assert all(model.score(X, y) > 0.9 for model in models)
    assert not np.array_equal(models[0].predict_proba(X), models[1].predict_proba(X))


def test_the_same_calls_give_the_same_bits_with_a_file_a_pickle_or_a_copy_in_between(tmp_path):
    X, y = points(1, 50, 7)
    plain = taught()
    plain.save(tmp_path / "model.safetensors")
    others = [
        hecate.Classifier.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(plain)),
        copy.deepcopy(plain),
        taught(),
    ]
    plain.partial_fit(X, y, task=1).self_update(X, task=0)
    expected = plain.predict_proba(X)
    for other in others:
        assert other.get_params() == plain.get_params()
        other.partial_fit(X, y, task=1).self_update(X, task=0)
        assert np.array_equal(other.predict_proba(X), expected) and other.classes_.dtype == plain.classes_.dtype


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        hecate.Classifier.load(path)
    taught().save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors"):
        hecate.Classifier.load(path)
    with pytest.raises(ValueError, match="JSON"):
        X, y = points(0, 20, 0)
        hecate.Classifier(random_state=np.random.default_rng(0)).fit(X, y).save(path)


def test_errors_say_what_to_do():
    X, y = points(0, 20, 0)
    model = taught()
    cases = [
        (lambda: hecate.Classifier(preset="fast").fit(X, y), "`balanced`"),
        (lambda: hecate.Classifier(heads="two").fit(X, y), "per_task"),
        (lambda: hecate.Classifier(rate="fast").fit(X, y), "learning.rate"),
        (lambda: hecate.Classifier(optimizer="adam").fit(X, y), "`adamw`"),
        (lambda: hecate.Classifier(freeze=["k"]).fit(X, y), "learning.freeze"),
        (lambda: hecate.Classifier(patches=2).fit(X, y), "patches"),
        (lambda: hecate.Classifier(blocks=[{}], hidden=3).fit(X, y), "leave out hidden"),
        (lambda: hecate.Classifier(blocks=[{"mixers": {}}]).fit(X, y), "mixer"),
        (lambda: hecate.Classifier(random_state=-1).fit(X, y), "random_state"),
        (lambda: hecate.Classifier().partial_fit(X, y), "classes"),
        (lambda: hecate.Classifier().predict(X), "not fitted"),
        (lambda: hecate.Classifier().save("nowhere"), "not fitted"),
        (lambda: hecate.Classifier().set_params(speed=3), "Valid parameters"),
        (lambda: model.predict(X, task=7), "partial_fit teaches"),
        (lambda: model.predict(X[:, :2]), "expecting 3 features"),
        (lambda: model.partial_fit(X, ["new"] * 20, task=0), "classes="),
        (lambda: model.partial_fit(X, y, classes=["a", "b"], task=0), "first call"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


def test_a_call_that_fails_changes_nothing():
    X, y = points(0, 20, 0)
    model = hecate.Classifier(width=8, heads="per_task")
    with pytest.raises(ValueError, match="classes="):
        model.partial_fit(X, y, classes=["no0", "other"])
    assert not hasattr(model, "classes_") and not hasattr(model, "_learner")
    model.partial_fit(X, y, task=0)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="classes="):
        model.partial_fit(X, y, classes=["yes0"], task=1)
    assert model.tasks_ == [0] and np.array_equal(model.predict_proba(X), before)
    model.partial_fit(X, y, classes=["yes0", "no0"], task=1)
    assert model.tasks_ == [0, 1]


def test_scikit_learn_is_not_loaded_by_the_package():
    code = "import hecate, sys, numpy; hecate.Classifier().fit(numpy.eye(4), [0, 1, 0, 1]); print('sklearn' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
