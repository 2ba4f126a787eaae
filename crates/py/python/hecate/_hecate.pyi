import os
from typing import Any, Literal, TypedDict, TypeVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AssociativeMemory",
    "ClassifierLearner",
    "Generation",
    "Model",
    "PairMemory",
    "State",
    "__version__",
    "classifier_preset",
    "forward",
    "load",
    "rules",
    "start",
    "vjp",
]
__version__: str

_F = TypeVar("_F", np.float32, np.float64)

class _Input(TypedDict):
    name: str
    kind: Literal["scalar", "key", "value", "fixed"]
    width: int
    default: float | None
    about: str

class _StateTensor(TypedDict):
    name: str
    shape: tuple[int, ...]
    start: Literal["zero", "learned", "identity", "same"]

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
    features: str
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
def start(
    rule: str | dict[str, Any],
    key_width: int,
    value_width: int,
    *,
    heads: int | None = None,
    batch: int = 1,
    seed: int = 0,
    dtype: str = "float64",
) -> dict[str, Any]: ...
def load(path: str | os.PathLike[str]) -> Model: ...
@final
class AssociativeMemory:
    def __new__(
        cls,
        rule: str | dict[str, Any],
        key_width: int,
        value_width: int,
        *,
        seed: int = 0,
        dtype: str = "float64",
    ) -> AssociativeMemory: ...
    def write(self, keys: NDArray[Any], values: NDArray[Any], **gates: float | NDArray[Any]) -> None: ...
    def read(self, queries: NDArray[Any]) -> NDArray[Any]: ...
    @property
    def state(self) -> dict[str, Any]: ...
    @property
    def written(self) -> int: ...
    def reset(self) -> None: ...
    def copy(self) -> AssociativeMemory: ...

@final
class PairMemory:
    def __new__(
        cls,
        key_width: int,
        value_width: int,
        *,
        window: int | None = None,
        sharpness: float | None = None,
        dtype: str = "float64",
    ) -> PairMemory: ...
    def write(self, keys: NDArray[Any], values: NDArray[Any]) -> None: ...
    def read(self, queries: NDArray[Any]) -> NDArray[Any]: ...
    @property
    def state(self) -> dict[str, Any]: ...
    @property
    def written(self) -> int: ...
    def reset(self) -> None: ...
    def copy(self) -> PairMemory: ...

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

def classifier_preset(
    preset: str, features: int, classes: int, per_task: bool, samples: int, tasks: int
) -> tuple[str, int]: ...
@final
class ClassifierLearner:
    def __new__(cls, config: str, seed: int) -> ClassifierLearner: ...
    def learn(
        self, values: NDArray[np.float32], labels: list[int], task: int, passes: int
    ) -> tuple[float, int, int]: ...
    def learn_from_itself(
        self, values: NDArray[np.float32], task: int | None = None
    ) -> tuple[float, int, int]: ...
    def probabilities(self, values: NDArray[np.float32], task: int | None = None) -> NDArray[np.float64]: ...
    def add_task(self, classes: int) -> None: ...
    def save(self, path: str | os.PathLike[str], note: str) -> None: ...
    @staticmethod
    def load(path: str | os.PathLike[str]) -> tuple[ClassifierLearner, str]: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(bytes: bytes) -> ClassifierLearner: ...
    @property
    def config(self) -> str: ...
    @property
    def parameters(self) -> int: ...
