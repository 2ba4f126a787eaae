"""Sequence models whose memories keep learning while they run.

>>> import hecate, numpy as np
>>> rng = np.random.default_rng(0)
>>> inputs = {name: rng.normal(size=(16, 8)) for name in "kvq"}
>>> inputs["rate"] = np.full(16, 0.5)
>>> y, state = hecate.memory.forward("delta", inputs)
>>> y.shape, state["W"].shape, state["pos"]
((16, 8), (8, 8), 16)

A trained model, and what it learns while it runs:

    model = hecate.load("runs/default-1")
    first = model.generate("Call me", max_tokens=100)
    print(first)
    first.state.save("session.safetensors")
    model.generate(" Ishmael", state=model.new_state().load("session.safetensors"))
"""

from hecate import memory
from hecate._hecate import Generation, Model, State, __version__, load, rules
from hecate.classifier import Classifier

__all__ = ["Classifier", "Generation", "Model", "State", "__version__", "load", "memory", "rules"]
