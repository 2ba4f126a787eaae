"""One memory over a sequence: `forward` runs it, `vjp` gives the exact gradient of the run."""

from hecate._hecate import forward, vjp

__all__ = ["forward", "vjp"]
