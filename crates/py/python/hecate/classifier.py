"""A classifier of vectors that learns task after task: `hecate.Classifier`."""

from __future__ import annotations

import inspect
import json
import os
from typing import Any

import numpy as np
from hecate import _validation
from hecate._hecate import ClassifierLearner, classifier_preset
from numpy.typing import NDArray

__all__ = ["Classifier"]


class Classifier:
    """Classifies vectors, and goes on learning, task after task, without losing what it knew.

    It has the methods of a scikit-learn classifier. What is None is taken from the preset, which sizes everything by the
    number of samples.

    >>> import numpy as np, hecate
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> first = hecate.Classifier(heads="per_task").partial_fit(X, X[:, 0] > 0, task="sign", epochs=20)
    >>> both = first.partial_fit(X, X[:, 1] > X[:, 2], task="order", epochs=20)
    >>> both.score(X, X[:, 0] > 0, task="sign") > 0.95, both.score(X, X[:, 1] > X[:, 2], task="order") > 0.95
    (True, True)

    Parameters:
        preset: "balanced", "fast_adapt" (learns quickly, keeps no sample) or "high_retention" (keeps what it knows).
        heads: "shared": one head over all classes. "per_task": a head for every task, with its own classes.
        task_embedding: a learned row for each task, added to every sample of it.
        width: width of the stream through the blocks.
        hidden: hidden units of each perceptron.
        periods: one perceptron for each number, stepped once in so many samples, fastest first.
        blocks: blocks as in `config.json`, in the place of `hidden` and `periods`: any mixer and channel.
        patches: equal parts into which a sample is cut, one token each; more than one needs a mixer in `blocks`.
        epochs: passes of `fit`.
        rate: size of a step.
        batch_size: samples of a step.
        optimizer: name of an optimizer, or a dict of its name and settings.
        freeze: projections of mixers that stay as they are drawn, of "k", "v" and "q".
        replay: samples kept to be learned from again.
        replay_share: kept samples in a step, as a share of the new ones.
        decay: what a step of rate 1 takes away from the distance of weights to `decay_towards`.
        decay_towards: "zero" or "task_start", the weights at the start of the task.
        confidence: the least probability of a prediction that `self_update` learns from.
        chunk_size: samples that `self_update` predicts at once.
        standardize: bring features to mean 0 and deviation 1 by the samples of the first call.
        samples: about how many samples a task will have, by which presets go; those of the first call where None.
        tasks: about how many tasks there will be, by which presets go.
        random_state: an integer, a NumPy generator, or None for chance.

    After learning: `classes_` (all, sorted), `tasks_`, `n_features_in_`, `feature_names_in_` (where columns have names),
    `loss_` (of the last pass, in nats).
    """

    def __init__(
        self,
        preset: str = "balanced",
        *,
        heads: str = "shared",
        task_embedding: bool = False,
        width: int | None = None,
        hidden: int | None = None,
        periods: Any = None,
        blocks: Any = None,
        patches: int = 1,
        epochs: int | None = None,
        rate: float | None = None,
        batch_size: int | None = None,
        optimizer: Any = None,
        freeze: Any = None,
        replay: int | None = None,
        replay_share: float | None = None,
        decay: float | None = None,
        decay_towards: str | None = None,
        confidence: float | None = None,
        chunk_size: int | None = None,
        standardize: bool = True,
        samples: int | None = None,
        tasks: int = 1,
        random_state: Any = 0,
    ) -> None:
        self.preset = preset
        self.heads = heads
        self.task_embedding = task_embedding
        self.width = width
        self.hidden = hidden
        self.periods = periods
        self.blocks = blocks
        self.patches = patches
        self.epochs = epochs
        self.rate = rate
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.freeze = freeze
        self.replay = replay
        self.replay_share = replay_share
        self.decay = decay
        self.decay_towards = decay_towards
        self.confidence = confidence
        self.chunk_size = chunk_size
        self.standardize = standardize
        self.samples = samples
        self.tasks = tasks
        self.random_state = random_state

    # Learning.

    def fit(self, X: Any, y: Any, task: Any = None) -> Classifier:
        """Forgets everything and learns from samples [N, features] and labels [N], `epochs` times over them."""
        values, target = self._pairs(X, y, first=True)
        self._begin(values, X, np.unique(target), task, len(values))
        return self._learn(values, target, task, self._passes if self.epochs is None else self.epochs)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, task: Any = None, epochs: int = 1) -> Classifier:
        """Learns from more samples, of a known task or of a new one; `task` is any label, None for the first task.

        `classes` are all classes of the shared head, needed in the first call, or all of a task's own head: those of `y`
        in the task's first call where None.
        """
        first = not hasattr(self, "_learner")
        values, target = self._pairs(X, y, first)
        if classes is not None:
            known = np.unique(_validation.labels(classes, len(classes)))
        elif first and self.heads == "shared":
            raise ValueError("classes must be passed on the first call to partial_fit: all that the shared head will know")
        else:
            known = np.unique(target)
        # Before anything changes: a call that fails leaves the classifier as it was.
        self._fitting(target, known if first else self._classes_of(task, known))
        if first:
            self._begin(values, X, known, task, self.samples or len(values))
        else:
            self._meet(task, known, classes is not None)
        return self._learn(values, target, task, epochs)

    def self_update(self, X: Any, task: Any = None) -> int:
        """Learns from its own predictions of samples without labels, where their probability is at least `confidence`.

        Returns how many it learned from.
        """
        values = self._checked(X)
        self.loss_, _, count = self._learner.learn_from_itself(values, self._asked(task))
        return count

    # Predicting.

    def predict_proba(self, X: Any, task: Any = None) -> NDArray[np.float64]:
        """Probabilities [N, classes] in the order of `classes_`; 0 for those that the task does not have.

        Without a task, all heads compete: a class counts with what every task says of it.
        """
        values, index = self._checked(X), self._asked(task)
        p = self._learner.probabilities(values, index)
        heads = range(len(self._columns)) if index is None else [self._head(index)]
        out = np.zeros((len(values), len(self.classes_)))
        places = np.searchsorted(self.classes_, np.concatenate([self._columns[head] for head in heads]))
        np.add.at(out.T, places, p.T)
        return out

    def predict(self, X: Any, task: Any = None) -> NDArray[Any]:
        """The likeliest class [N] of each sample."""
        p = self.predict_proba(X, task)
        return np.asarray(self.classes_[p.argmax(axis=1)])

    def score(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> float:
        """The share of samples that are classified right."""
        predicted = self.predict(X, task)
        right = predicted == _validation.labels(y, len(predicted))
        return float(np.average(right, weights=sample_weight))

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes parameters, optimizer and kept samples to one file, whole or not at all."""
        if not hasattr(self, "_learner"):
            raise _validation.not_fitted(self)
        note = {
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "columns": [column.tolist() for column in self._columns],
            "dtype": str(self.classes_.dtype),
            "tasks": self.tasks_,
            "features": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "loss": self.loss_,
            "passes": self._passes,
        }
        try:
            text = json.dumps(note, default=_plain)
        except TypeError as error:
            raise ValueError(f"save takes parameters and task labels that JSON knows, such as numbers and text: {error}")
        self._learner.save(path, text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Classifier:
        """Reads what `save` wrote; it goes on learning as if it had never stopped."""
        learner, text = ClassifierLearner.load(path)
        try:
            note = json.loads(text)
            dtype = np.dtype(note["dtype"])
            self = cls(**note["params"])
            self.classes_ = np.array(note["classes"], dtype)
            self._columns = [np.array(column, dtype) for column in note["columns"]]
            self.tasks_, self.loss_, self._passes = note["tasks"], note["loss"], note["passes"]
            if note["features"]:
                self.feature_names_in_ = np.array(note["features"], dtype=object)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: holds a classifier that Classifier.save did not write ({error!r})")
        self._learner = learner
        self.n_features_in_ = json.loads(learner.config)["features"]
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if "_learner" in state:
            state["_learner"] = self._learner.to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_learner" in state:
            self._learner = ClassifierLearner.from_bytes(state["_learner"])

    # What scikit-learn asks of an estimator.

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, by name; `deep` changes nothing, none of them is an estimator."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Classifier:
        """Sets parameters, which the next `fit` goes by."""
        known = self._names()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r} for estimator {self!r}. Valid parameters are: {known!r}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self.get_params().items() if value is not defaults[name]]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_learner")

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn asks, so it is there.
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # type: ignore

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(),
        )

    # Inside.

    def _pairs(self, X: Any, y: Any, first: bool) -> tuple[NDArray[np.float32], NDArray[Any]]:
        values = _validation.samples(X) if first else self._checked(X)
        return values, _validation.labels(y, len(values))

    def _checked(self, X: Any) -> NDArray[np.float32]:
        if not hasattr(self, "_learner"):
            raise _validation.not_fitted(self)
        names = _validation.names(X)
        known = getattr(self, "feature_names_in_", None)
        if names is not None and known is not None and list(names) != list(known):
            raise ValueError(
                "The feature names should match those that were passed during fit, in the same order: "
                f"expected {list(known)}, got {list(names)}"
            )
        values = _validation.samples(X)
        if values.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {values.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input"
            )
        return values

    def _begin(self, values: NDArray[np.float32], X: Any, classes: NDArray[Any], task: Any, samples: int) -> None:
        if self.heads not in ("shared", "per_task"):
            raise ValueError(f"heads is {self.heads!r}, expected 'shared' or 'per_task'")
        features = values.shape[1]
        text, self._passes = classifier_preset(
            self.preset, features, len(classes), self.heads == "per_task", self.samples or samples, self.tasks
        )
        config = self._config(json.loads(text))
        learner = ClassifierLearner(json.dumps(config, default=_plain), _validation.seed(self.random_state))
        self._learner, self._columns, self.tasks_ = learner, [classes], [task]
        self.classes_, self.n_features_in_ = classes, features
        self.__dict__.pop("feature_names_in_", None)
        names = _validation.names(X)
        if names is not None:
            self.feature_names_in_ = names

    def _config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The preset's configuration with what the parameters say."""
        config["task_embedding"], config["patches"] = self.task_embedding, self.patches
        if self.width is not None:
            config["width"] = self.width
        level = config["blocks"][0]["channel"]
        if self.hidden is not None or self.width is not None:
            level["hidden"] = 2 * self.width if self.hidden is None else self.hidden  # type: ignore[operator]
        if self.periods is not None:
            level["levels"] = [{"period": int(period)} for period in self.periods]
        if self.blocks is not None:
            if self.hidden is not None or self.periods is not None:
                raise ValueError("blocks say everything about perceptrons: leave out hidden and periods")
            config["blocks"] = list(self.blocks)
        named = {"name": self.optimizer} if isinstance(self.optimizer, str) else self.optimizer
        learning = {
            "rate": self.rate,
            "batch": self.batch_size,
            "optimizer": named,
            "freeze": None if self.freeze is None else list(self.freeze),
            "replay": self.replay,
            "replay_share": self.replay_share,
            "decay": self.decay,
            "decay_towards": self.decay_towards,
            "confidence": self.confidence,
            "chunk": self.chunk_size,
            "standardize": self.standardize,
        }
        config["learning"].update({key: value for key, value in learning.items() if value is not None})
        return config

    def _learn(self, values: NDArray[np.float32], target: NDArray[Any], task: Any, epochs: int) -> Classifier:
        index = self._asked(task, otherwise=0)
        numbers = np.searchsorted(self._columns[self._head(index)], target).tolist()
        self.loss_, _, _ = self._learner.learn(values, numbers, index, epochs)
        return self

    def _classes_of(self, task: Any, new: NDArray[Any]) -> NDArray[Any]:
        """The classes of a task's head, which are `new` where the task is and brings its own."""
        number = self._task(task)
        return new if number is None and self.heads == "per_task" else self._columns[self._head(number or 0)]

    @staticmethod
    def _fitting(target: NDArray[Any], known: NDArray[Any]) -> None:
        unknown = np.setdiff1d(target, known)
        if len(unknown):
            raise ValueError(
                f"y holds {unknown.tolist()}, which the head does not have: it was made for the classes {known.tolist()}; "
                "name all of them in the first call with classes="
            )

    def _meet(self, task: Any, classes: NDArray[Any], named: bool) -> None:
        """Adds a new task; of a known one the classes, if they are `named`, must be those that it has."""
        number = self._task(task)
        if number is not None:
            if named and not np.array_equal(classes, self._columns[self._head(number)]):
                raise ValueError("classes are not those of the first call: a head has one list of classes")
            return
        if self.heads == "shared":
            classes = self._columns[0]
        self._learner.add_task(len(classes))
        self.tasks_ = [*self.tasks_, task]
        if self.heads == "per_task":
            self._columns = [*self._columns, classes]
            self.classes_ = np.unique(np.concatenate(self._columns))

    def _head(self, task: int) -> int:
        return 0 if self.heads == "shared" else task

    def _task(self, task: Any) -> int | None:
        """The number of a task; of the first one where none is named."""
        if task is None:
            return 0
        return self.tasks_.index(task) if task in self.tasks_ else None

    def _asked(self, task: Any, otherwise: Any = None) -> Any:
        """The number of a task that must be known."""
        if task is None:
            return otherwise
        number = self._task(task)
        if number is None:
            raise ValueError(f"task is {task!r}, known are {self.tasks_!r}: partial_fit teaches it a new one")
        return number


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as JSON knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
