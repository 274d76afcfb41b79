"""The processes of one training run, as `torchrun` starts them. Each trains on its own lanes of every batch.

The first process decides by clock and interruption for all, so that all stop at the same step. With one process every
function here is the identity. Legend: B lanes of the whole batch, b lanes of one process.
"""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from carousel_training.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The place of this process, `rank`, among the `size` processes of a run. Torch's own group has the connections."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> "ProcessGroup":
        """Returns the group this process has joined, or a group of one."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls(0, 1)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def own_lanes(self, tensor_B: torch.Tensor) -> torch.Tensor:
        """Returns this process's rows of a tensor with one row per lane. Raises SettingsError for lanes that do not
        divide.
        """
        if len(tensor_B) % self.size:
            raise SettingsError(f"batch.num_lanes: {len(tensor_B)} lanes cannot be shared among {self.size} processes")
        return tensor_B.chunk(self.size)[self.rank]

    def all_lanes(self, tensor_b: torch.Tensor) -> torch.Tensor:
        """Reverses `own_lanes`. All processes must call it."""
        if self.size == 1:
            return tensor_b
        parts = [torch.empty_like(tensor_b) for _ in range(self.size)]
        distributed.all_gather(parts, tensor_b.contiguous())
        return torch.cat(parts)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Averages over the processes. All processes must call it."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total / self.size

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replaces each tensor by the first process's; all must call it. Other processors may initialise otherwise."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0)

    def average_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Replaces each gradient by its mean over the processes, in one exchange.

        All processes must call it after the same loss. Torch's DistributedDataParallel would hold the connections for
        as long as the model exists.
        """
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, mean in zip(
            gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    def agree(self, value: float, device: torch.device) -> float:
        """Returns the first process's value. All processes must call it."""
        if self.size == 1:
            return value
        agreed = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.broadcast(agreed, 0)
        return float(agreed)


@contextmanager
def join_processes(environment: Mapping[str, str]) -> Iterator[ProcessGroup]:
    """Joins the group that torchrun's variables describe, if any, and leaves it at the end."""
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup(0, 1)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    # Optimisers import this module. If imported after the next line, it would hold the connections and their threads
    # until the interpreter ends, and about one run in a hundred would abort there.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield ProcessGroup.current()
    finally:
        distributed.destroy_process_group()


@contextmanager
def own_directory(group: ProcessGroup, directory: Path, *, is_copied: bool) -> Iterator[Path]:
    """Gives the first process the run's directory, and each other process a temporary one, empty or a copy.

    So the code of a run writes its files without asking which process it runs in.
    """
    if group.is_first:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix=f"carousel-train-{os.getpid()}-") as place:
        if is_copied and directory.is_dir():
            shutil.copytree(directory, place, dirs_exist_ok=True)
        yield Path(place)
