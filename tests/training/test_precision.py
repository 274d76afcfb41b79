"""A run uses the device and precision of its settings."""

import pytest
import torch

from carousel_training.errors import SettingsError
from carousel_training.precision import Compute
from carousel_training.settings import ComputeSettings


def of_processor(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def test_precision_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 computes products in bfloat16, float32 does not."""
    of_processor(monkeypatch, avx512_bw=True)
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        compute = Compute.choose(ComputeSettings.model_validate({"device": "cpu", "precision": precision}))
        with compute.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_auto_takes_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bfloat16 is slower than float32."""
    settings = ComputeSettings(device="cpu")
    for has, capabilities in ((True, {"avx512_bf16": True}), (True, {"amx_bf16": True}), (False, {"avx2": True})):
        of_processor(monkeypatch, **capabilities)
        assert Compute.choose(settings).uses_bfloat16 is has


def test_what_was_chosen_is_said_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is decided once: read again on another processor, the settings give the same arithmetic."""
    given = ComputeSettings(device="cpu")
    for here, elsewhere in ((True, False), (False, True)):
        of_processor(monkeypatch, avx512_bf16=here, avx512_bw=True)
        resolved = Compute.choose(given).resolved(given)
        of_processor(monkeypatch, avx512_bf16=elsewhere, avx512_bw=True)
        assert Compute.choose(resolved).uses_bfloat16 is here


def test_bfloat16_is_refused_where_nothing_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's LSTM in bfloat16 needs AVX-512. Without it the run is refused before the first step."""
    of_processor(monkeypatch, avx512_bw=False)
    with pytest.raises(SettingsError, match="AVX-512"):
        Compute.choose(ComputeSettings(device="cpu", precision="bfloat16"))


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing device is an error if it is set by name, and not with auto."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="torch sees no CUDA device"):
        Compute.choose(ComputeSettings(device="cuda"))
    assert Compute.choose(ComputeSettings()).device.type == "cpu"


def test_threads_are_set() -> None:
    """The setting reaches torch, and the description shows it."""
    compute = Compute.choose(ComputeSettings(device="cpu", precision="float32", threads=2))
    assert torch.get_num_threads() == 2
    assert compute.describe() == "cpu, float32, 2 threads"
