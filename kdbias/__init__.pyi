"""What editors and type checkers see of `import kdbias`; made by `make docs`."""

from collections.abc import Sequence
from kdbias.data.opening import open_data as open_data
from kdbias.demonstration.story import demo as demo
from kdbias.embedding.stage import embed as embed
from kdbias.errors import KdbiasError as KdbiasError
from kdbias.evaluation.comparison import compare as compare
from kdbias.evaluation.judge import evaluate as evaluate
from kdbias.inspection.describe import inspect as inspect
from kdbias.measurement.stage import uniformity as uniformity
from kdbias.reporting.page import report as report
from kdbias.sampler.manifest_sampler import ManifestSampler as ManifestSampler
from kdbias.studies.stage import StudyResult
from kdbias.tables.density_table import read_density as read_density
from kdbias.tables.embedding_table import EmbeddingTable as EmbeddingTable
from kdbias.tables.embedding_table import write_embedding_table as write_embedding_table
from kdbias.tables.weight_manifest import read_manifest as read_manifest
from kdbias.training.loop import TrainingResult
from kdbias.version import __version__ as __version__
from kdbias.weighting.changes import Changes
from kdbias.weighting.frontier import FrontierResult
from kdbias.weighting.stage import WeightsResult
import os

__all__ = [
    "EmbeddingTable",
    "KdbiasError",
    "ManifestSampler",
    "__version__",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "frontier",
    "inspect",
    "open_data",
    "read_density",
    "read_manifest",
    "report",
    "study",
    "train",
    "uniformity",
    "weights",
    "what_changed",
    "write_embedding_table",
]

def frontier(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    embeddings: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    t: float | None = None,
    tolerance: float = 0.001,
    memory: str | int = '4GiB',
    seed: int = 0,
    methods: Sequence[str] | None = None,
    floors: Sequence[float] | None = None,
) -> FrontierResult:
    """Compare all schemes, and the equilibrium at a range of ESS floors, by what they reach and cost.

    The equilibria are the frontier: at their ESS no sampling of these data has less energy.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: folder for frontier.parquet, frontier.png and frontier.svg.
        overwrite: start over where the folder holds another frontier.
        embeddings: embedding table [the one that DENSITY was made from].
        threads: CPU threads [all].
        t: bandwidth [the one that uniformity chose].
        tolerance: relative gap to stop at [0.001].
        memory: most extra memory, 256MiB or more [4GiB].
        seed: of the clusters [0].
        methods: schemes, with their default options [all that fit].
        floors: ESS floors of the equilibrium, 0 = none [eight up to 1].

    Raises:
        KdbiasError: bad options, an output named as a file, or no embeddings.
    """

def study(
    description: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    rounds: Sequence[str] = (),
    workers: int = 1,
    threads: int = 1,
    device: str = 'auto',
    dry_run: bool = False,
) -> StudyResult:
    """Run what is missing of a study and write its results.

    Args:
        description: the study's TOML file (docs/studies.md).
        output: folder to write. The same call again goes on after an interruption; a changed description
            re-runs only what it changes.
        only: run these data sets (DATA) or cases (DATA/BIAS) alone; results cover every finished run; repeatable.
        rounds: run these rounds alone; repeatable.
        workers: processes, each with one run at a time [1].
        threads: CPU threads a worker [1].
        device: of teachers and students: auto, cpu, cuda or cuda:N [auto].
        dry_run: list the missing runs with their time; run nothing.

    Raises:
        KdbiasError: a description that is wrong, names in `only` or `rounds` that it lacks, data that cannot
            be read, or all runs failed.
    """

def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    config: str | os.PathLike[str] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    live_teacher: str | os.PathLike[str] | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    student: str = 'convnet',
    dim: int | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    color: str = 'auto',
    loss: str = 'l2e',
    scale: float | None = None,
    margin: float | None = None,
    flip: str = 'none',
    epochs: int = 20,
    batch_size: int = 128,
    optimizer: str = 'sgd',
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    schedule: str = 'cosine',
    milestones: Sequence[float] = (0.5, 0.75, 0.9),
    warmup: float = 1.0,
    clip_grad: float = 5.0,
    sampling: str = 'systematic',
    instances: int = 0,
    precision: str = 'fp32',
    ema: float = 0.0,
    seed: int = 0,
    deterministic: bool = True,
    on_error: str = 'skip',
    device: str = 'auto',
    threads: int | None = None,
    workers: int = 2,
    cache: str = '2GiB',
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    onnx: bool = False,
) -> TrainingResult:
    """Train a student on `data` and leave student.pt, metrics.csv, config.toml and run.json in `output`.

    The same call again resumes an interrupted run exactly, or finds it finished and does nothing. Under
    torchrun the processes share every batch.

    Args:
        data: what `kdbias.open_data` reads.
        output: folder to write.
        resume: refuse to begin a new run.
        overwrite: begin anew whatever is there.
        config: TOML file with the options below as keys; options win over it.
        embeddings: embedding table with the teacher's vectors.
        weights: weight manifest: which samples, how often [all, once].
        live_teacher: teacher spec to run on every image as the student sees it, instead of --embeddings.
        id_column: column with unique sample ids [sample_id, else path].
        label_column: column with the identity or class [label].
        path_column: column with image paths [path].
        image_column: column with image bytes [image].
        where: keep matching samples, e.g. split=train; repeatable.
        root: data root for relative paths [the data's own].
        student: network: convnet, mobilefacenet, iresnet50, torchvision:NAME, timm:NAME, ... [convnet].
        dim: embedding dimension [the teacher's, else 128].
        image_size: input size, N or HxW pixels [the first image's].
        color: input colour (auto: L where all sampled images are grey) [auto].
        loss: from a teacher: l2e, l2e-raw, cosine, rkd; from labels: softmax, arcface, cosface; or a sum:
            l2e+0.5*arcface [l2e].
        scale: scale of arcface and cosface [64].
        margin: margin of arcface or cosface [0.5 or 0.4].
        flip: mirror half the images: 'target' with their own teacher vectors, 'same' keeping the target [none].
        epochs: passes over the weighted data [20].
        batch_size: images a step, all processes together; at most all samples [128].
        optimizer: optimiser [sgd].
        lr: peak learning rate [0.1 for sgd, 0.002 for adamw].
        momentum: momentum of sgd, for example 0.9 [0.9].
        weight_decay: weight decay [0.0005 for sgd, 0.05 for adamw].
        schedule: decay of the learning rate [cosine].
        milestones: where 'step' divides by 10, in fractions of the run: 0.5 is half-way [0.5,0.75,0.9].
        warmup: epochs over which the learning rate rises, at most all [1].
        clip_grad: largest gradient norm, 0 for none [5].
        sampling: draw: floor or ceil of each weight, or with replacement [systematic].
        instances: draw identities instead, with this many images of each a batch (re-identification) [0].
        precision: arithmetic of the network [fp32].
        ema: save the running average of the weights with this decay, for example 0.999; 0 for none [0].
        seed: decides the first weights and the order of samples [0].
        deterministic: use deterministic algorithms only [yes].
        on_error: what an unreadable image does: its draws go to another (failures.parquet lists it), or an end
            [skip].
        device: auto, cpu, cuda or cuda:N [auto].
        threads: CPU threads [torch's].
        workers: processes or threads that decode images [2].
        cache: keep decoded images in memory up to this size; 0 for never [2GiB].
        checkpoint_seconds: write checkpoint.pt this often [60].
        tensorboard: also log scalars for TensorBoard.
        onnx: also export student.onnx, checked against the network.

    Raises:
        KdbiasError: unknown keys, inputs that do not match by id, a changed configuration (the keys that
            differ are named), or a loss that is no longer a number.
    """

def weights(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    embeddings: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: str = 'equilibrium',
    min_ess: float | None = None,
    temper: float = 1.0,
    clip: float | None = None,
    mix: float = 0.0,
    collapse: str | None = None,
    near: float | None = None,
    beta: float | None = None,
    t: float | None = None,
    exponent: float | None = None,
    tolerance: float | None = None,
    memory: str | int | None = None,
    cap: float | None = None,
    max_seconds: float | None = None,
    seed: int | None = None,
    keep: float | None = None,
    clusters: Sequence[int] | None = None,
) -> WeightsResult:
    """Write a weight manifest: one row a sample with its weight, the expected number of draws an epoch.

    Steps in order: scheme, duplicates collapsed, temper, clip, mix, ESS floor, mean 1. The equilibrium meets
    the floor and the cap within its problem, and both hold after the other steps, too; other schemes meet a
    floor, only when asked, by mixing in natural sampling.

    Args:
        density: the folder that ``uniformity`` wrote (or its density.parquet).
        output: the manifest to write, a .parquet file.
        overwrite: replace a manifest that was made differently.
        embeddings: embedding table [the one that DENSITY was made from].
        threads: CPU threads [all].
        method: weight scheme [equilibrium].
        min_ess: least ESS / distinct samples [equilibrium: 0.5, else none].
        temper: exponent on the weights; 1 leaves them [1].
        clip: no weight above this many times the mean.
        mix: share of natural sampling mixed in [0].
        collapse: which copies share one weight [exact; natural: none].
        near: least cosine of collapse near [0.999].
        beta: effective-number: 0 = natural, near 1 = class-balanced [0.99].
        t: inverse-density, equilibrium: bandwidth [the one that uniformity chose].
        exponent: knn-distance, hard: power of the distance [1].
        tolerance: equilibrium: relative gap to stop at [0.001].
        memory: equilibrium: most extra memory, 256MiB or more [4GiB].
        cap: equilibrium: the clip inside the problem, which stays optimal.
        max_seconds: equilibrium: stop by then, with the gap that was reached.
        seed: cluster-balanced: of the clusters [0].
        keep: cluster-balanced: share of the samples that water-filling keeps [0.2].
        clusters: cluster-balanced: clusters of each level, e.g. 1000,100 [samples / 20, then a tenth each].

    Returns:
        What was written. The same call again does nothing.

    Raises:
        KdbiasError: bad options, labels or embeddings that the method needs but cannot get, or an existing
            manifest made differently (keys named).
    """

def what_changed(
    manifest: str | os.PathLike[str],
    density: str | os.PathLike[str] | None = None,
    *,
    group_by: Sequence[str] | None = None,
    top: int = 10,
) -> Changes:
    """Compare a weight manifest with natural sampling.

    Args:
        manifest: the weight manifest.
        density: the folder that ``uniformity`` wrote, for the hardness; by default the manifest names it.
        group_by: report by this column; repeatable [every group column and the label].
        top: samples of each end to list [10].

    Raises:
        KdbiasError: no such manifest or column.
    """
