"""One graph in onnxruntime, run on the host or with an accelerator's memory. No other module imports onnxruntime."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Importing onnxruntime starts a thread that reports its use to its maker. Only this, before the import, prevents it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from carousel.bundle.layout import Array, Rows
from carousel.errors import BundleInvalid, ProviderUnavailable

RUNTIME_VERSION: str = onnxruntime.__version__
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPE_NAMES = {"float32": "float", "float64": "double"}  # onnxruntime's names where they differ from numpy's
_DEVICES = {"cuda": "cuda"}  # of providers with their own memory


@dataclass(frozen=True, slots=True)
class Execution:
    """How graphs run. `num_threads` is the size of onnxruntime's pool; 0 lets onnxruntime choose."""

    providers: tuple[str, ...] = ("cpu",)
    num_threads: int = 1


class DeviceRows:
    """Rows in a device's memory, where graphs read them. Reading a row on the host fetches the whole batch, once."""

    def __init__(self, value: Any, shape: tuple[int, ...]) -> None:
        self.value = value  # onnxruntime's object, which owns the memory
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return self._host[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._host, dtype, copy=copy)

    def reshape(self, shape: tuple[int, int]) -> "DeviceRows":
        """Returns the same memory with another shape."""
        return DeviceRows(self.value, shape)

    @functools.cached_property
    def _host(self) -> Array:
        return np.asarray(self.value.numpy()).reshape(self.shape)


class Graph:
    """One loaded graph. Raises BundleInvalid when onnxruntime cannot load it, and ProviderUnavailable when the only
    provider does not start.

    On a `device`, by default the provider's own, inputs may be DeviceRows and outputs can stay there.
    """

    def __init__(self, name: str, graph: bytes, execution: Execution, device: str | None = None) -> None:
        self.name = name
        self._session = _open(name, graph, execution)
        self._device = device or _DEVICES.get(self.provider)

    @property
    def provider(self) -> str:
        """The short name of the execution provider in use."""
        return next(short for short, name in PROVIDERS.items() if name == self._session.get_providers()[0])

    def run(self, outputs: Sequence[str], feed: Mapping[str, Rows]) -> list[Array]:
        """Returns the outputs, on the host."""
        if self._device is None:
            result: list[Array] = self._session.run(outputs, feed)
            return result
        return [value.numpy() for value in self._run_bound(outputs, feed, "cpu")]

    def run_staying(self, outputs: Sequence[str], feed: Mapping[str, Rows]) -> Sequence[Rows]:
        """Returns the outputs where they were computed."""
        if self._device is None:
            return self.run(outputs, feed)
        values = self._run_bound(outputs, feed, self._device)
        return [DeviceRows(value, tuple(value.shape())) for value in values]

    def check_inputs(self, names: set[str]) -> None:
        self._check("inputs", names, self._session.get_inputs())

    def check_outputs(self, names: set[str]) -> None:
        self._check("outputs", names, self._session.get_outputs())

    def check_rows(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Raises BundleInvalid if the input or output declares other rows than these, after an axis of any length."""
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        node = next(node for node in nodes if node.name == name)
        if list(node.shape[1:]) != list(shape) or node.type != f"tensor({_TYPE_NAMES.get(dtype, dtype)})":
            raise BundleInvalid(
                f"{self.name}: {name} has rows of {node.type} {node.shape[1:]}; the manifest says {dtype} {list(shape)}"
            )

    def width(self, name: str) -> int:
        """Returns the declared length of an input's or output's last axis, or 0 where the graph leaves it open."""
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        width = next(node.shape[-1] for node in nodes if node.name == name)
        return width if isinstance(width, int) else 0

    def _run_bound(self, outputs: Sequence[str], feed: Mapping[str, Rows], place: str) -> list[Any]:
        binding = self._session.io_binding()
        for name, rows in feed.items():
            if isinstance(rows, DeviceRows):
                value = rows.value
                binding.bind_input(name, self._device, 0, value.element_type(), rows.shape, value.data_ptr())
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(rows))
        for name in outputs:
            binding.bind_output(name, place)
        self._session.run_with_iobinding(binding)
        result: list[Any] = binding.get_outputs()
        return result

    def _check(self, what: str, names: set[str], nodes: Sequence[Any]) -> None:
        missing = ", ".join(sorted(names - {node.name for node in nodes}))
        if missing:
            raise BundleInvalid(f"{self.name}: {what} {missing} that the manifest needs are not in the graph")


def available_providers(wanted: Sequence[str]) -> list[str]:
    """Returns those of `wanted` (short names, in order) that this onnxruntime has, or raises ProviderUnavailable."""
    installed = set(onnxruntime.get_available_providers())
    chosen = [name for name in wanted if PROVIDERS.get(name) in installed]
    if not chosen:
        have = ", ".join(short for short, name in PROVIDERS.items() if name in installed)
        raise ProviderUnavailable(f"execution provider {', '.join(wanted)} is not available here; there is: {have}")
    return chosen


def _open(name: str, graph: bytes, execution: Execution) -> Any:
    if "cuda" in execution.providers and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from Python packages
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.num_threads
    options.inter_op_num_threads = 1
    # A pool that spins between steps would occupy the event loop's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights are inside the graph; a reference to any other file must fail.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
    providers = [PROVIDERS[short] for short in available_providers(execution.providers)]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise BundleInvalid(f"{name}: onnxruntime cannot load it: {error}") from error
    session._model_bytes = None  # kept only to restart with other providers; as large as the weights
    if session.get_providers()[0] != providers[0] and len(execution.providers) == 1:
        raise ProviderUnavailable(f"execution provider {execution.providers[0]} is installed but does not start here")
    return session
