import os
from typing import Any, Literal, TypedDict, TypeVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Generation", "Model", "State", "__version__", "forward", "load", "rules", "vjp"]
__version__: str

_F = TypeVar("_F", np.float32, np.float64)

class _Input(TypedDict):
    name: str
    kind: Literal["scalar", "key", "value", "fixed"]
    width: int
    about: str

class _StateTensor(TypedDict):
    name: str
    shape: tuple[int, ...]

class _Kernel(TypedDict):
    name: str
    about: str
    canonical: bool
    available: bool

class _RuleRow(TypedDict):
    name: str
    equation: str
    source: str
    structure: str
    bias: str
    retention: str
    algorithm: str
    chunk: Literal["exact", "frozen", "sequential"]
    inputs: list[_Input]
    state: list[_StateTensor]
    kernels: list[_Kernel]

def rules(dk: int = 64, dv: int = 64) -> list[_RuleRow]: ...
def forward(
    rule: str | dict[str, Any],
    inputs: dict[str, NDArray[_F]],
    state: dict[str, Any] | None = None,
    kernel: str = "auto",
) -> tuple[NDArray[_F], dict[str, Any]]: ...
def vjp(
    rule: str | dict[str, Any],
    inputs: dict[str, NDArray[_F]],
    dy: NDArray[_F],
    state: dict[str, Any] | None = None,
    dstate: dict[str, NDArray[_F]] | None = None,
    kernel: str = "auto",
) -> dict[str, Any]: ...
def load(path: str | os.PathLike[str]) -> Model: ...
@final
class Model:
    @property
    def config(self) -> dict[str, Any]: ...
    def generate(
        self,
        prompt: str | bytes | None = None,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | bytes | list[str | bytes] | None = None,
        state: State | None = None,
        access: str = "learn",
    ) -> Generation: ...
    def new_state(self) -> State: ...

@final
class State:
    @property
    def tokens(self) -> int: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...
    def load(self, path: str | os.PathLike[str]) -> State: ...
    def fork(self) -> State: ...
    def hash(self) -> str: ...

@final
class Generation:
    @property
    def text(self) -> str: ...
    @property
    def bytes(self) -> bytes: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def stopped(self) -> Literal["stop", "max_tokens"]: ...
    @property
    def state(self) -> State: ...
