"""Every option of `train`: its default, its meaning and its limits. Imports no torch.

They are keyword arguments of `kdbias.train`, options of `kdbias train` (image_size is --image-size) and keys
of a `--config` file; options win over the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdbias import shared_options as shared
from kdbias.data.settings import Reading
from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.kinds import size_of
from kdbias.loss_terms import parse_loss
from kdbias.networks import require_network
from kdbias.settings import Settings, option


def image_size(value: Any) -> tuple[int, int]:
    """(height, width) from N, "N", "HxW" or two numbers; raises ValueError."""
    sides: Any = value
    if isinstance(value, str):
        sides = [int(side) if side.strip().isdecimal() else side for side in value.lower().split("x")]
    sides = sides if isinstance(sides, list | tuple) else [sides]
    return size_of(sides * 2 if len(sides) == 1 else sides, value, "N or HxW, for example 112 or 256x128")


@dataclass(frozen=True, kw_only=True)
class _Inputs(Settings):
    embeddings: str | None = option(None, "embedding table with the teacher's vectors", path=True)
    weights: str | None = option(
        None, "weight manifest: which samples, how often", path=True, shown="all, once"
    )
    live_teacher: str | None = option(
        None,
        "teacher spec to run on every image as the student sees it, instead of --embeddings",
        path=True,
        metavar="SPEC",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Reading, _Inputs):
    """What a run is. `None` means: decided from the data or by another option, as its text says."""

    name = "train"
    twosided = True

    student: str = option(
        "convnet", "network: convnet, mobilefacenet, iresnet50, torchvision:NAME, timm:NAME, ..."
    )
    dim: int | None = option(
        None, "embedding dimension", shown="the teacher's, else 128", least=1, most=65_536
    )
    image_size: tuple[int, int] | None = option(
        None,
        "input size, N or HxW pixels",
        shown="the first image's",
        parse=image_size,
        metavar="N|HxW",
        accepts="int | str | tuple[int, int]",
    )
    color: str = option(
        "auto", "input colour (auto: L where all sampled images are grey)", choices=("auto", "RGB", "L")
    )
    loss: str = option(
        "l2e",
        "from a teacher: l2e, l2e-raw, cosine, rkd; from labels: softmax, arcface, cosface; "
        "or a sum: l2e+0.5*arcface",
    )
    scale: float | None = option(None, "scale of arcface and cosface", shown="64", above=0)
    margin: float | None = option(None, "margin of arcface or cosface", shown="0.5 or 0.4", least=0)
    flip: str = option(
        "none",
        "mirror half the images: 'target' with their own teacher vectors, 'same' keeping the target",
        choices=("none", "target", "same"),
    )

    epochs: int = option(20, "passes over the weighted data", least=1, most=1_000_000)
    steps: int | None = option(
        None,
        "end after exactly so many steps instead, in the midst of an epoch perhaps",
        shown="those of all epochs",
        least=1,
    )
    batch_size: int = option(128, "images a step, all processes together; at most all samples", least=1)
    optimizer: str = option("sgd", "optimiser", choices=("sgd", "adamw"))
    lr: float | None = option(None, "peak learning rate", shown="0.1 for sgd, 0.002 for adamw", above=0)
    momentum: float = option(0.9, "momentum of sgd, for example 0.9", least=0, below=1)
    weight_decay: float | None = option(None, "weight decay", shown="0.0005 for sgd, 0.05 for adamw", least=0)
    schedule: str = option(
        "cosine", "decay of the learning rate", choices=("cosine", "linear", "step", "constant")
    )
    milestones: tuple[float, ...] = option(
        (0.5, 0.75, 0.9),
        "where 'step' divides by 10, in fractions of the run: 0.5 is half-way",
        above=0,
        below=1,
    )
    warmup: float = option(1.0, "epochs over which the learning rate rises, at most all", least=0)
    clip_grad: float = option(5.0, "largest gradient norm, 0 for none", least=0)
    sampling: str = option(
        "systematic", "draw: floor or ceil of each weight, or with replacement", choices=("systematic", "iid")
    )
    instances: int = option(
        0, "draw identities instead, with this many images of each a batch (re-identification)", least=0
    )
    sharded: bool = option(
        False,
        "draw from 16 shards of the data at a time (tars, row groups; else runs of 1,024 samples), each "
        "sample as often as without: for data too large to be read at random",
    )
    precision: str = option("fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16", "fp16"))
    ema: float = option(
        0.0,
        "save the running average of the weights with this decay, for example 0.999; 0 for none",
        least=0,
        below=1,
    )
    seed: int = option(0, "decides the first weights and the order of samples", least=0, most=2**63 - 1)
    deterministic: bool = option(True, "use deterministic algorithms only")

    on_error: str = option(
        "skip",
        "what an unreadable image does: its draws go to another (failures.parquet lists it), or an end",
        choices=("skip", "fail"),
        operational=True,
    )
    device: str = shared.device("auto, cpu, cuda or cuda:N")
    threads: int | None = shared.threads(shown="torch's")
    workers: int = option(
        2, "processes or threads that decode images", least=0, most=MOST_PARALLEL, operational=True
    )
    cache: str = option(
        "2GiB", "keep decoded images in memory up to this size; 0 for never", operational=True
    )
    checkpoint_seconds: float = option(60.0, "write checkpoint.pt this often", least=0, operational=True)
    tensorboard: bool = option(False, "also log scalars for TensorBoard", operational=True)
    onnx: bool = option(False, "also export student.onnx, checked against the network", operational=True)

    def check(self) -> None:
        """Fill in what the optimizer decides; refuse options that contradict each other."""
        put = object.__setattr__
        parse_loss(self.loss)
        require_network(self.student)
        if self.lr is None:
            put(self, "lr", {"sgd": 0.1, "adamw": 0.002}[self.optimizer])
        if self.weight_decay is None:
            put(self, "weight_decay", {"sgd": 5e-4, "adamw": 0.05}[self.optimizer])
        if self.steps is None and self.warmup > self.epochs:
            raise KdbiasError(
                f"train: warmup is {self.warmup:g} epochs and the run has {self.epochs:,}, so that the "
                "learning rate would never reach its peak; give a shorter warmup"
            )
        idle = {
            "epochs": (self.steps is not None, "steps says when the run ends"),
            "sampling": (self.instances > 0, "with instances, identities are drawn systematically"),
            "sharded": (self.instances > 0, "with instances, identities come from all of the data"),
            "momentum": (self.optimizer != "sgd", f"{self.optimizer} takes none"),
            "milestones": (self.schedule != "step", f"schedule {self.schedule} has none"),
        }
        self.refuse_idle({name: why for name, (is_idle, why) in idle.items() if is_idle})

    @property
    def rate(self) -> float:
        """The peak learning rate, decided."""
        assert self.lr is not None
        return self.lr
