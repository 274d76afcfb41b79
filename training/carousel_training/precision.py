"""This module chooses the device and the precision of a run. It knows no model."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from carousel_training.errors import SettingsError
from carousel_training.settings import ComputeSettings


@dataclass(frozen=True, slots=True)
class Compute:
    """A device, and whether products run in bfloat16 under autocast. Weights and optimiser stay float32."""

    device: torch.device
    uses_bfloat16: bool

    @classmethod
    def choose(cls, settings: ComputeSettings) -> "Compute":
        """Chooses device and precision, and sets torch's thread pool if asked.

        `auto` means the GPU if there is one, and bfloat16 if the processor multiplies it natively. Raises SettingsError
        for CUDA without a CUDA device, and for bfloat16 if torch's LSTM cannot run in it.
        """
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("compute.device is cuda, but torch sees no CUDA device")
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        on_cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
        if settings.precision == "bfloat16" and not on_cuda and not can_run_bfloat16():
            raise SettingsError(
                "compute.precision: bfloat16 needs a processor with AVX-512; auto chooses a precision at a run's start"
            )
        if settings.precision != "auto":
            return cls(torch.device("cuda" if on_cuda else "cpu"), settings.precision == "bfloat16")
        pays = torch.cuda.is_bf16_supported(including_emulation=False) if on_cuda else _has_native_bfloat16()
        return cls(torch.device("cuda" if on_cuda else "cpu"), pays)

    def resolved(self, settings: ComputeSettings) -> ComputeSettings:
        """Returns the settings with the chosen precision."""
        return settings.model_copy(update={"precision": "bfloat16" if self.uses_bfloat16 else "float32"})

    def autocast(self) -> AbstractContextManager[Any]:
        if not self.uses_bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def describe(self) -> str:
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device.type}, {'bfloat16' if self.uses_bfloat16 else 'float32'}{threads}"


def can_run_bfloat16() -> bool:
    """Whether this processor runs bfloat16 at all. On x86, torch's fused LSTM needs AVX-512 for it."""
    capabilities = _capabilities()
    return capabilities.get("architecture", "x86_64") != "x86_64" or bool(capabilities.get("avx512_bw", True))


def _has_native_bfloat16() -> bool:
    capabilities = _capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _capabilities() -> dict[str, Any]:
    read = getattr(torch.cpu, "get_capabilities", None)  # older torch has no such call, and float32 always works
    return {} if read is None else dict(read())
