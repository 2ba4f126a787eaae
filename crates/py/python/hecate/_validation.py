"""What a classifier asks of arrays, in the words that users of scikit-learn know.

scikit-learn itself is never imported here: where a program has loaded it, its exception and warning types are used.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _NotFitted(ValueError, AttributeError):
    """The classifier has not learned anything yet."""


def _known(name: str, otherwise: Any) -> Any:
    return getattr(sys.modules.get("sklearn.exceptions"), name, otherwise)


def not_fitted(owner: Any) -> Exception:
    """The error of a method that was called too early."""
    text = f"This {type(owner).__name__} instance is not fitted yet: call 'fit' or 'partial_fit' first."
    return _known("NotFittedError", _NotFitted)(text)  # type: ignore[no-any-return]


def samples(X: Any) -> NDArray[np.float32]:
    """Samples as an array [N, features] of float32 in C order."""
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise TypeError("Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert it.")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: X holds complex numbers.")
    if array.dtype.kind in "OUS":
        array = array.astype(np.float64)
    if array.ndim != 2:
        kind = {0: "a scalar", 1: "a 1D array"}.get(array.ndim, f"an array with {array.ndim} dimensions")
        raise ValueError(
            f"Expected 2D array, got {kind} instead. Reshape your data with array.reshape(-1, 1) if it has a single "
            "feature, or array.reshape(1, -1) if it is a single sample."
        )
    for axis, name in enumerate(("sample", "feature")):
        if array.shape[axis] == 0:
            raise ValueError(
                f"Found array with 0 {name}(s) (shape={array.shape}) while a minimum of 1 is required."
            )
    if np.isnan(array).any():
        raise ValueError("Input X contains NaN.")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError("Input X contains infinity or a value too large for dtype('float32').")
    return array


def labels(y: Any, count: int) -> NDArray[Any]:
    """Labels as an array [N]."""
    if y is None:
        raise ValueError("This classifier requires y to be passed, but the target y is None.")
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        text = "A column-vector y was passed when a 1d array was expected. Use y.ravel() to change its shape."
        warnings.warn(text, _known("DataConversionWarning", UserWarning), stacklevel=3)
        array = array.ravel()
    if array.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {array.shape} instead.")
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: y holds complex numbers.")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise ValueError("Input y contains NaN.")
        if not np.isfinite(array).all():
            raise ValueError(f"Input y contains infinity or a value too large for dtype('{array.dtype}').")
        if (array != np.floor(array)).any():
            raise ValueError("Unknown label type: continuous. Labels are classes; round them if they are numbers.")
    if len(array) != count:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: [{count}, {len(array)}]")
    return array


def names(X: Any) -> NDArray[Any] | None:
    """Names of columns, where there are some and all of them are text."""
    columns = getattr(X, "columns", None)
    found = None if columns is None else np.asarray(columns, dtype=object)
    if found is None or not len(found) or not all(isinstance(name, str) for name in found):
        return None
    return found


def seed(random_state: Any) -> int:
    """A seed from an integer, a NumPy generator, or None for chance."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(random_state, (int, np.integer)) and random_state >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    raise ValueError(f"random_state is {random_state!r}, expected an integer from 0 up, a NumPy generator or None")
