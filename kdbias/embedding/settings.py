"""Every option of `embed`: its default, its meaning and its limits. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias import shared_options as shared
from kdbias.data.settings import Reading
from kdbias.device import MOST_PARALLEL
from kdbias.engine.settings import Engines
from kdbias.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class _Network(Settings):
    teacher: str = option(
        text="what computes the embeddings, such as torchvision:resnet50, run:RUN_DIR or precomputed:FILE",
        path=True,
        metavar="SPEC",
        accepts="str",
    )
    teacher_output: str | None = option(
        None,
        "which output of a network with several (onnx, openvino, torchscript, python)",
        flag="--output",
        path=True,  # known by the teacher's fingerprint
        metavar="NAME|INDEX",
        accepts="str",
    )


@dataclass(frozen=True, kw_only=True)
class _Embedding(Reading, _Network):
    same_order: bool = option(
        False,
        "a precomputed array without ids is taken by position: row i is sample i, before --where",
        operational=True,
    )
    batch_size: int = option(
        64, "images a batch; halved by itself when the device runs out of memory", least=1, operational=True
    )
    device: str = shared.device("where to compute; under torchrun auto takes the process's own GPU")
    precision: str = option(
        "fp32", "arithmetic of the teacher's forward pass", choices=("fp32", "bf16", "fp16")
    )
    store: str = option("float16", "how unit vectors are stored", choices=("float16", "float32"))
    workers: int = option(
        2, "decoding processes; 0 decodes in this one", least=0, most=MOST_PARALLEL, operational=True
    )
    flip: bool = option(False, "store the mirrored image's embedding too (embedding_flip)")
    on_error: str = option(
        "skip",
        "what an unreadable image does: a row in failures.parquet, or an end",
        choices=("skip", "fail"),
        operational=True,
    )
    append: bool = option(
        False,
        "where OUT holds a table of an earlier state of the data: embed only what is new or changed, drop "
        "what is gone",
        operational=True,
    )
    rows_per_part: int | None = option(
        None,
        "rows a file; an interrupted run loses the one at work and the one being written at most",
        least=1,
        shown="a sixteenth, 2048 to 16384",
    )
    plan: bool = option(False, "print counts, bytes and parts, then stop", operational=True)
    preprocessing: str | None = option(
        None,
        "its [preprocessing] table replaces the teacher's own",
        path=True,
        metavar="FILE.toml",
        accepts="str",
    )
    channels_last: bool | None = option(
        None, "memory layout of a torch network", shown="channels last with bf16, fp16", operational=True
    )
    compile: bool = option(False, "compile the network first (torch.compile)", operational=True)

    @property
    def precomputed(self) -> bool:
        """Whether the vectors lie in a file, so that no network runs."""
        return self.teacher.startswith("precomputed:")

    def check(self) -> None:
        """Refuse options of networks where vectors are precomputed."""
        super().check()
        if self.precomputed:
            of_networks = (
                "precision",
                "flip",
                "preprocessing",
                "teacher_output",
                "channels_last",
                "compile",
                "append",
            )
            self.refuse_idle(dict.fromkeys(of_networks, "with precomputed embeddings no network runs"))


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(Engines, _Embedding):
    """What a table of embeddings is made of, and how."""

    name = "embed"
