"""Every option of `train`: its default, its meaning, and how a TOML file sets it. Imports no torch.

The fields of `TrainingConfig` are declared once and have three doors: keyword arguments of `kdbias.train`,
options of `kdbias train` (image_size is --image-size) and keys of a `--config` file; options win over the
file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_toml
from kdbias.tables.files import atomic_path


def _key(default: Any, text: str, *choices: str, path: bool = False, operational: bool = False) -> Any:
    """A field with its help; `path` = where input lies, `operational` = how fast, not what."""
    about = {"help": text, "choices": choices, "path": path, "operational": operational}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is. `None` means: decided from the data or by another key, as the text says."""

    embeddings: str | None = _key(None, "embedding table with the teacher's vectors", path=True)
    weights: str | None = _key(
        None, "weight manifest: which samples, how often (default: all, once)", path=True
    )
    live_teacher: str | None = _key(
        None, "teacher spec to run on every image as the student sees it, instead of --embeddings", path=True
    )
    where: tuple[str, ...] = _key((), "keep rows with COLUMN=VALUE; repeatable")
    id_column: str | None = _key(None, "column with the sample ids")
    label_column: str | None = _key(None, "column with the labels")
    path_column: str | None = _key(None, "column with the image paths")
    image_column: str | None = _key(None, "column with the image bytes")
    root: str | None = _key(None, "folder that paths are relative to", path=True)

    student: str = _key(
        "convnet", "network: convnet, mobilefacenet, iresnet50, torchvision:NAME, timm:NAME, ..."
    )
    dim: int | None = _key(None, "embedding dimension (default: the teacher's, else 128)")
    image_size: tuple[int, int] | None = _key(
        None, "input size, N or HxW pixels (default: the first image's)"
    )
    color: str = _key("auto", "input colour (auto: L where all sampled images are grey)", "auto", "RGB", "L")
    loss: str = _key(
        "l2e",
        "from a teacher: l2e, l2e-raw, cosine, rkd; from labels: softmax, arcface, cosface; "
        "or a sum: l2e+0.5*arcface",
    )
    scale: float | None = _key(None, "scale of arcface and cosface (default: 64)")
    margin: float | None = _key(None, "margin of arcface (default: 0.5) or cosface (default: 0.4)")
    flip: str = _key(
        "none",
        "mirror half the images: 'target' with their own teacher vectors, 'same' keeping the target",
        "none",
        "target",
        "same",
    )

    epochs: int = _key(20, "passes over the weighted data")
    batch_size: int = _key(128, "images a step, all processes together; at most all samples")
    optimizer: str = _key("sgd", "optimiser", "sgd", "adamw")
    lr: float | None = _key(None, "peak learning rate (default: 0.1 for sgd, 0.002 for adamw)")
    momentum: float = _key(0.9, "momentum of sgd")
    weight_decay: float | None = _key(None, "weight decay (default: 0.0005 for sgd, 0.05 for adamw)")
    schedule: str = _key("cosine", "decay of the learning rate", "cosine", "linear", "step", "constant")
    milestones: tuple[float, ...] = _key(
        (0.5, 0.75, 0.9), "where 'step' divides by 10, in fractions of the run: 0.5 is half-way"
    )
    warmup: float = _key(1.0, "epochs over which the learning rate rises, at most all")
    clip_grad: float = _key(5.0, "largest gradient norm, 0 for none")
    sampling: str = _key(
        "systematic", "draw: floor or ceil of each weight, or with replacement", "systematic", "iid"
    )
    instances: int = _key(
        0, "draw identities instead, with this many images of each a batch (re-identification)"
    )
    precision: str = _key("fp32", "arithmetic of the network", "fp32", "tf32", "bf16", "fp16")
    ema: float = _key(
        0.0, "save the running average of the weights with this decay, for example 0.999; 0 for none"
    )
    seed: int = _key(0, "decides the first weights and the order of samples")
    deterministic: bool = _key(True, "use deterministic algorithms only")

    on_error: str = _key(
        "skip",
        "what an unreadable image does: its draws go to another (failures.parquet lists it), or an end",
        "skip",
        "fail",
        operational=True,
    )
    device: str = _key("auto", "auto, cpu, cuda or cuda:N", operational=True)
    threads: int | None = _key(None, "CPU threads (default: torch's)", operational=True)
    workers: int = _key(2, "processes or threads that decode images", operational=True)
    cache: str = _key("2GiB", "keep decoded images in memory up to this size; 0 for never", operational=True)
    checkpoint_seconds: float = _key(60.0, "write checkpoint.pt this often", operational=True)
    tensorboard: bool = _key(False, "also log scalars for TensorBoard", operational=True)
    onnx: bool = _key(False, "also export student.onnx, checked against the network", operational=True)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "image_size", _size(self.image_size))
        put(self, "where", (self.where,) if isinstance(self.where, str) else tuple(self.where or ()))
        put(self, "milestones", _fractions(self.milestones))
        if self.lr is None:
            put(self, "lr", {"sgd": 0.1, "adamw": 0.002}.get(self.optimizer))
        if self.weight_decay is None:
            put(self, "weight_decay", {"sgd": 5e-4, "adamw": 0.05}.get(self.optimizer))
        for f in fields(self):
            _check(f, getattr(self, f.name))
        for name, example in (("ema", 0.999), ("momentum", 0.9)):
            if getattr(self, name) >= 1:
                raise KdbiasError(
                    f"train: {name} is {getattr(self, name)}, should be below 1, for example {example}"
                )
        if self.warmup > self.epochs:
            raise KdbiasError(
                f"train: warmup is {self.warmup:g} epochs and the run has {self.epochs:,}, so that the "
                "learning rate would never reach its peak; give a shorter warmup"
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse what was chosen and would change nothing."""
        idle = {
            "sampling": (self.instances > 0, "with instances, identities are drawn systematically"),
            "momentum": (self.optimizer != "sgd", f"{self.optimizer} takes none"),
            "milestones": (self.schedule != "step", f"schedule {self.schedule} has none"),
        }
        for f in fields(self):
            is_idle, why = idle.get(f.name, (False, ""))
            value = getattr(self, f.name)
            if is_idle and value != f.default:
                raise KdbiasError(f"train: {f.name} is {_json(value)!r}, but {why}: leave it out")

    @classmethod
    def read(cls, file: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> TrainingConfig:
        """The keys of a TOML file (or none), overridden by the options that are not None.

        Raises KdbiasError for a file that is no TOML, and for unknown keys by name.
        """
        given = {**(read_toml(Path(file)) if file is not None else {})}
        cls._refuse_unknown(given, str(file))
        set_options = {k: _plain(v) for k, v in options.items() if v is not None and v != ()}
        cls._refuse_unknown(set_options, "train")
        return cls(**{**given, **set_options})

    @classmethod
    def _refuse_unknown(cls, given: Mapping[str, Any], where: str) -> None:
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise KdbiasError(f"{where}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")

    def identity(self) -> dict[str, Any]:
        """The keys that make a run what it is, JSON-ready: neither paths nor what only changes its speed.

        Input data count by their fingerprints instead, so a moved folder or another device may resume.
        """
        kept = [f for f in fields(self) if not (f.metadata["path"] or f.metadata["operational"])]
        return {f.name: _json(getattr(self, f.name)) for f in kept}

    def write(self, path: Path, remark: str) -> None:
        """Write all keys that are set as TOML, with their help as comments; `read` gives the same config."""
        lines = [f"# {remark}"]
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value != ():
                lines.append(
                    f"{f.name} = {json.dumps(_json(value), ensure_ascii=False)}  # {f.metadata['help']}"
                )
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def head_options(self) -> dict[str, float]:
        """Options of the classification heads that were given."""
        given = {"scale": self.scale, "margin": self.margin}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def rate(self) -> float:
        """The peak learning rate, decided."""
        assert self.lr is not None
        return self.lr


_POSITIVE = ("dim", "epochs", "batch_size", "lr", "threads", "scale")
_NOT_NEGATIVE = (
    "weight_decay",
    "momentum",
    "warmup",
    "clip_grad",
    "seed",
    "workers",
    "checkpoint_seconds",
    "instances",
    "ema",
    "margin",
)


_MOST = {
    "dim": 65_536,
    "epochs": 1_000_000,
    "seed": 2**63 - 1,
    "threads": MOST_PARALLEL,
    "workers": MOST_PARALLEL,
}
_LARGEST_SIDE = 16_384


def _check(f: Field[Any], value: Any) -> None:
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise KdbiasError(f"train: {f.name} is {value!r}, should be one of {', '.join(choices)}")
    if value is None:
        return
    if f.name in (*_POSITIVE, *_NOT_NEGATIVE):
        whole = "int" in str(f.type)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise KdbiasError(f"train: {f.name} is {value!r}, should be a {'whole ' if whole else ''}number")
        if isinstance(value, float) and not math.isfinite(value):
            raise KdbiasError(f"train: {f.name} is {value}, should be finite")
        if value > _MOST.get(f.name, value):
            raise KdbiasError(f"train: {f.name} is {value}, should be at most {_MOST[f.name]:,}")
        if not (value > 0 if f.name in _POSITIVE else value >= 0):
            least = "above 0" if f.name in _POSITIVE else "at least 0"
            raise KdbiasError(f"train: {f.name} is {value}, should be {least}")
    elif "str" in str(f.type) and "tuple" not in str(f.type) and not isinstance(value, str):
        raise KdbiasError(f"train: {f.name} is {value!r}, should be a text")
    elif f.type == "bool" and not isinstance(value, bool):
        raise KdbiasError(f"train: {f.name} is {value!r}, should be true or false")


def _fractions(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v < 1:
            raise KdbiasError(
                f"train: milestones has {v!r}, should be fractions of the run between 0 and 1, for example "
                "0.5,0.75,0.9 (epoch 30 of 100 is 0.3)"
            )
    return values


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = [int(v) for v in value.lower().split("x")]
        sides = [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
        height, width = sides * 2 if len(sides) == 1 else sides
    except (TypeError, ValueError):
        raise KdbiasError(
            f"train: image_size is {value!r}, should be N or HxW, for example 112 or 256x128"
        ) from None
    if not 1 <= min(height, width) <= max(height, width) <= _LARGEST_SIDE:
        raise KdbiasError(
            f"train: image_size is {height}x{width}, both sides should be at least 1 and at most "
            f"{_LARGEST_SIDE:,}"
        )
    return height, width


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
