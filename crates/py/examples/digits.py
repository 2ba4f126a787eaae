"""Two tasks, one after the other: digits 0 to 4, then 5 to 9, and what is kept of the first.

Run with: pip install scikit-learn && python crates/py/examples/digits.py
"""

import hecate
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.2, stratify=y, random_state=0)
TASKS = {"0 to 4": y_train < 5, "5 to 9": y_train >= 5}
HELD_OUT = {"0 to 4": y_test < 5, "5 to 9": y_test >= 5}

for heads in ("per_task", "shared"):
    model = hecate.Classifier(heads=heads, width=64, standardize=False, tasks=2)
    print(f"heads={heads!r}")
    for task, rows in TASKS.items():
        classes = None if heads == "per_task" else np.arange(10)
        model.partial_fit(X_train[rows], y_train[rows], classes=classes, task=task, epochs=30)
        for known in model.tasks_:
            # A shared head is not told the task.
            asked = {"task": known} if heads == "per_task" else {}
            score = model.score(X_test[HELD_OUT[known]], y_test[HELD_OUT[known]], **asked)
            print(f"  after {task}: accuracy on {known} is {score:.3f}")
