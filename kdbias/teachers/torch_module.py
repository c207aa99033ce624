"""Running a torch network as a teacher: precision, memory layout, overlapped copies, too little memory.

`torchscript:FILE` is a scripted or traced one. TorchScript is a program: loading the file runs the code in
it, so open files from sources you trust only.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from kdbias import progress
from kdbias.device import out_of_memory
from kdbias.errors import KdbiasError, MachineError, first_line
from kdbias.networks.saved import tensor_bytes
from kdbias.tables import fingerprints
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.spec import of_what
from kdbias.teachers.teacher import Teacher, TeacherOptions
from kdbias.wording import counted

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_IN_FLIGHT = 2


class TorchTeacher(Teacher):
    """A callable on normalised float tensors (b, c, h, w) -> (b, d); usually a module in eval mode."""

    def __init__(
        self,
        spec: str,
        network: Callable[[torch.Tensor], torch.Tensor],
        preprocessing: Preprocessing,
        options: TeacherOptions,
        *,
        kind: str,
        content: str | None = None,
        runs_code: bool = False,
        note: str = "",
    ) -> None:
        """`kind` and `content` (default: digest of the module's weights) identify it in its fingerprint."""
        self.spec, self.preprocessing, self.runs_code, self.note = spec, preprocessing, runs_code, note
        self._asked = options.output
        self.device, self.precision = options.device, options.precision
        reduced = options.precision != "fp32"
        self.channels_last = reduced if options.channels_last is None else options.channels_last
        self._largest: int | None = None
        if isinstance(network, torch.nn.Module):
            content = content or state_digest(network)
            network = network.eval().to(options.device)
            if self.channels_last:
                network = network.to(memory_format=torch.channels_last)
        if content is None:
            raise KdbiasError(f"teacher {spec}: nothing identifies its weights; give it a fingerprint")
        self._network = torch.compile(network) if options.compile else network
        self._identify(kind, content)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        return self._forward(torch.from_numpy(batch)).cpu().numpy()

    def stream(self, batches: Iterable[Any], flip: bool = False) -> Iterator[np.ndarray]:
        """Embeddings, float32 (b, dim), of each batch (and then of its mirror images)."""
        if not self.device.startswith("cuda"):
            yield from super().stream(batches, flip)
            return
        # The host queues the next batch's copy and kernels while the device works, and waits for an
        # embedding only when another batch is already behind it.
        queue: deque[tuple[torch.Tensor, torch.cuda.Event, int]] = deque()
        for batch in batches:
            images = torch.as_tensor(batch)
            for mirrored in (False, True) if flip else (False,):
                output = self._forward(images, mirrored)
                host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
                host.copy_(output, non_blocking=True)
                done = torch.cuda.Event()
                done.record(torch.cuda.current_stream(output.device))
                queue.append((host, done, len(images)))
                if len(queue) == _IN_FLIGHT:
                    yield self._collect(*queue.popleft())
        while queue:
            yield self._collect(*queue.popleft())

    def _collect(self, host: torch.Tensor, done: torch.cuda.Event, count: int) -> np.ndarray:
        done.synchronize()
        return self._checked(host.numpy(), count)

    def _forward(self, images: torch.Tensor, mirrored: bool = False) -> torch.Tensor:
        """uint8 (b, h, w, c) on the host -> float32 (b, d) on the device; out of memory halves the batch."""
        limit = min(self._largest or len(images), len(images))
        while True:
            try:
                parts = [self._run(piece, mirrored) for piece in images.split(limit)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                message = first_line(error)
            # Outside the handler, so that the traceback no longer holds the failed batch's memory.
            if limit == 1:
                raise MachineError(f"out of memory on {self.device} with a single image: {message}")
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            limit = self._largest = max(1, limit // 2)
            progress.say(
                f"out of memory on {self.device}: going on with at most {counted(limit, 'image')} at once"
            )

    def _run(self, images: torch.Tensor, mirrored: bool) -> torch.Tensor:
        with torch.inference_mode(), exact_float32(self.device):
            pixels = images.to(self.device, non_blocking=True)
            if mirrored:  # here: a flipped copy on the host would not be pinned, nor its copy overlapped
                pixels = pixels.flip(2)
            x = self.preprocessing.normalise(pixels, channels_last=self.channels_last)
            kind = "cuda" if self.device.startswith("cuda") else "cpu"
            reduced = self.precision != "fp32"
            with torch.autocast(kind, dtype=_DTYPES[self.precision], enabled=reduced):
                output = self._chosen(self._network(x))
            if not isinstance(output, torch.Tensor):
                raise KdbiasError(
                    f"teacher {self.spec} gave {type(output).__name__}; it should give one tensor (b, d)"
                )
            return output.float() if output.is_floating_point() else output


def open_torchscript(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `torchscript:REST`."""
    options.refuse("torchscript", "preprocessing precision device channels_last")
    spec = f"torchscript:{rest}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch prefers export; files stay as they are
            module = torch.jit.load(rest, map_location=options.device).eval()
    except RuntimeError as error:
        reason = f"is no TorchScript file ({first_line(error)}); {of_what(rest)}"
        raise KdbiasError(f"teacher {spec} {reason}") from error
    preprocessing = find_preprocessing(rest, options)
    content = fingerprints.of_file(rest)
    return TorchTeacher(
        spec, module, preprocessing, options, kind="torchscript", content=content, runs_code=True
    )


@contextlib.contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """On CUDA: no TF32 and no choice of kernels by timing, so that a resumed run repeats the first one."""
    if not device.startswith("cuda"):
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before


def state_digest(network: torch.nn.Module) -> str:
    """Digest of a module's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()
