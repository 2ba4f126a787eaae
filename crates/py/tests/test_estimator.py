"""`hecate.Classifier` under scikit-learn's own checks of estimators, and inside its tools."""

import warnings

import hecate
import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone, is_classifier  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402


# No check is left out. The package does not need scikit-learn, so its class is derived from none of scikit-learn's: what
# they say of that is no failure.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    CHECKS = parametrize_with_checks([hecate.Classifier(), hecate.Classifier("fast_adapt", heads="per_task")])


@pytest.mark.filterwarnings("default")
@CHECKS
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_it_works_in_pipelines_searches_and_clones():
    X = np.random.default_rng(0).normal(size=(120, 3))
    y = X[:, 0] > X[:, 1]
    model = hecate.Classifier(epochs=10)
    assert is_classifier(model) and clone(model).get_params() == model.get_params()
    assert cross_val_score(make_pipeline(MinMaxScaler(), model), X, y, cv=3).mean() > 0.85
    search = GridSearchCV(model, {"epochs": [1, 10]}, cv=3).fit(X, y)
    assert search.best_params_ == {"epochs": 10} and search.predict(X).dtype == bool
