"""The processes that train together, one unless torchrun or the caller started a group; Ctrl-C in them."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from kdbias.device import resolve_device
from kdbias.errors import KdbiasError
from kdbias.sampler.places import in_group, usual_place

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's place among `world_size`, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """The one process that writes files and speaks."""
        return self.rank == 0

    def share(self, batch_size: int, images: int) -> int:
        """This process's part of a batch of all processes together, which has no more than all `images`."""
        if batch_size % self.world_size:
            raise KdbiasError(
                f"--batch-size {batch_size} cannot be shared evenly by {self.world_size} processes"
            )
        return min(batch_size, images) // self.world_size

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes."""
        if self.world_size == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        return nn.parallel.DistributedDataParallel(module)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of the values over all processes, in their shape."""
        if self.world_size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Each process's `value`, by rank, on all of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on the main process, on all of them; a refusal there is raised everywhere."""
        return self._once(0, work)

    def once_a_machine(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first process of this machine, on all of them; refusals likewise."""
        machines = self.gather(socket.gethostname())
        return self._once(machines.index(machines[self.rank]), work)

    def _once(self, rank: int, work: Callable[[], T]) -> T:
        if self.world_size == 1:
            return work()
        result: Any = None
        refusal: KdbiasError | None = None
        if self.rank == rank:
            try:
                result = work()
            except KdbiasError as error:
                refusal = error
        outcomes = self.gather((result, refusal))
        for _, refused in outcomes:
            if refused is not None:
                raise refused
        # Not the copy that came back to the process that made it: a run there holds its folder's lock.
        return result if self.rank == rank else outcomes[rank][0]


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the group that torchrun announces in the environment (NCCL on CUDA, gloo on CPU), else be alone.

    Each process takes the CUDA device of its local rank. A group that is there already is used and left
    alone.

    Raises:
        KdbiasError: more processes on this machine than CUDA devices, on each of them.
    """
    started = in_group()
    resolved = resolve_device(device)
    if not started and usual_place()[1] == 1:
        if resolved.startswith("cuda"):
            torch.cuda.set_device(resolved)  # else pinned memory takes a context on the first GPU
        yield Processes(0, 1, torch.device(resolved))
        return
    if resolved.startswith("cuda"):
        resolved = _device_of_its_own()
        torch.cuda.set_device(resolved)
    if not started:
        # It keeps the group that is there when it is first imported (as a default argument), and DDP imports
        # it: imported before, no thread of a destroyed group is left to abort the interpreter's exit.
        importlib.import_module("torch.distributed.nn")
        distributed.init_process_group("nccl" if resolved.startswith("cuda") else "gloo")
    place = Processes(distributed.get_rank(), distributed.get_world_size(), torch.device(resolved))
    try:
        yield place
    except BaseException:
        # Where one process fails, gloo's closed connections end the others. NCCL would have this one wait
        # here for others that wait for it, until their time is out: it is left to the end of the process,
        # at which torchrun stops the rest.
        if not started and place.device.type == "cpu":
            distributed.destroy_process_group()
        raise
    if not started:
        distributed.destroy_process_group()


def _device_of_its_own() -> str:
    """cuda:LOCAL_RANK; KdbiasError where processes outnumber devices."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)), torch.cuda.device_count()
    if max(here, local + 1) > devices:
        raise KdbiasError(
            f"{here} processes on this machine, but torch sees {devices} CUDA device(s), and each needs its "
            f"own: start {devices} (--nproc-per-node {devices}), or train with --device cpu"
        )
    return f"cuda:{local}"


@contextlib.contextmanager
def deferred_interrupts(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, to be asked after each step; pressed again, it interrupts at once.

    Where it is not `wanted`, outside the main thread and where SIGINT does not raise KeyboardInterrupt,
    nothing changes and the answer is always no.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not wanted or not usual or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
