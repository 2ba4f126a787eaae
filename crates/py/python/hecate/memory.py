"""Memories without a model around them.

Over a sequence, `forward` runs a memory from a state, which `start` makes, and `vjp` gives the exact gradient of the
run. As an object, `AssociativeMemory` is written pair by pair under any rule, and `PairMemory` keeps the pairs.

>>> import numpy as np
>>> from hecate.memory import AssociativeMemory
>>> memory = AssociativeMemory("delta", key_width=4, value_width=2)
>>> keys, values = np.eye(4)[:3], np.arange(6.0).reshape(3, 2)
>>> memory.write(keys, values, rate=1.0)
>>> memory.read(keys[1])
array([2., 3.])
"""

from hecate._hecate import AssociativeMemory, PairMemory, forward, start, vjp

__all__ = ["AssociativeMemory", "PairMemory", "forward", "start", "vjp"]
