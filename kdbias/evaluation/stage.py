"""The evaluate stage: embeddings in, ``metrics.json`` out.

``OUT/metrics.json`` holds one document::

    version, stage, created, seconds   as in every provenance document
    config, inputs                     the options that change numbers; fingerprints of what was read
    sources                            {role: {"path", "stage", "config"}}: where inputs lie, what made them
    protocol, unit, n                  what was judged ("sample", "pair", "query") and how many
    left_out                           units not judged, by reason
    metrics      {name: {"value", "low", "high", "standard_error"}}     null = undefined, or not resampled
    groups       {column: {value: {"n", "metrics": {...}}}}
    spread       {column: {metric: {"worst", "best", "min", "max", "gap", "std"}}}    over groups; ddof 1
    interval     {"level", "repeats", "resampled", "seed"}              percentile bootstrap
    parameters, details                the protocol's own facts
    test_data    {name: {"n", "digest"}}    rows that decide the answer (a gallery's ids and labels)
    units, plots                       file names beside it

``OUT/units.parquet`` has the result of every unit; :func:`kdbias.evaluation.compare` pairs two of them.
"""

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kdbias.data.filters import spelled
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.evaluation import PROTOCOLS
from kdbias.evaluation.inputs import (
    column_types,
    embed_model,
    input_fingerprints,
    model_inputs,
    origin,
    rows_fingerprint,
)
from kdbias.evaluation.measuring import measured, plain
from kdbias.evaluation.plots import save_plots
from kdbias.evaluation.result import METRICS, EvaluationResult, read_metrics
from kdbias.evaluation.task import Embeddings, Outcome, Task, read_embeddings
from kdbias.evaluation.units import UNITS, unit_table
from kdbias.evaluation.views import check_fusion
from kdbias.progress import say
from kdbias.tables import provenance
from kdbias.tables.documents import write_json
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_record import Run
from kdbias.wording import plural

_STAGE = "evaluate"


def evaluate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    protocol: str = "knn",
    data: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    gallery: str | os.PathLike[str] | None = None,
    where: Sequence[str] = (),
    gallery_where: Sequence[str] = (),
    group_by: Sequence[str] = (),
    cluster_by: str | None = None,
    k: int | None = None,
    tail_from: str | os.PathLike[str] | None = None,
    density: str | os.PathLike[str] | None = None,
    pairs: str | os.PathLike[str] | None = None,
    folds: Sequence[int] | None = None,
    style: str | None = None,
    flip_fusion: str | None = None,
    far: Sequence[float] | None = None,
    group_column: str | None = None,
    camera_column: str | None = None,
    templates: str | os.PathLike[str] | None = None,
    detector_scores: str | os.PathLike[str] | None = None,
    keep_norm: bool | None = None,
    bootstrap: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    root: str | None = None,
    flip: bool = False,
    teacher_output: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> EvaluationResult:
    """Judge embeddings by a protocol and write ``metrics.json``, ``units.parquet`` and plots.

    Args:
        model: an embedding table; or, with ``data``, a run folder or any teacher spec, whose embeddings of
            the data are computed into ``OUT/embeddings`` first.
        output: folder to write.
        protocol: a key of ``PROTOCOLS``.
        data: data to embed with the model.
        reference: the teacher's embedding table over the same ids (knn, fidelity).
        gallery: the embedding table to search in (knn, reid; without it the judged table serves,
            leave-one-out) or to learn from (linear).
        where: keep the rows of the model's table with ``column=value``.
        gallery_where: the same for the gallery; without ``gallery`` it picks the gallery's rows from the
            model's own table.
        group_by: columns to report separately.
        cluster_by: column whose values are resampled as a whole; "" resamples unit by unit. Default: the
            label (verification, rfw: both labels of a pair; ijbc: both subjects), of knn, linear and fidelity
            only where labels are identities: 30 or more, with fewer than 30 judged samples each.
        k: neighbours that vote (knn; default 5).
        tail_from: table whose label counts say which classes are the tail (knn, linear).
        density: density table over the same ids, for deciles (fidelity).
        pairs: list of pairs (verification, ijbc), or a folder of one list a group (rfw).
        folds: the folds of the list to use, by number (verification, rfw).
        style: ``insightface`` (default) or ``facex``: how thresholds and spreads are taken (verification,
            rfw).
        flip_fusion: how both views are added where there are two: ``raw`` embeddings, then normalised
            (default, as insightface), or ``unit`` vectors (verification, rfw, ijbc).
        far: false accept rates at which TAR is reported (verification, ijbc).
        group_column: column that splits one list of pairs into groups (rfw).
        camera_column: column with the camera, ``none`` for no same-camera exclusion (reid).
        templates, detector_scores, keep_norm: the benchmark's files, and whether embedding lengths count
            (ijbc).
        bootstrap: number of resamples, 0 for no intervals; default 1,000, or 200 for over a million units.
        seed: of the resampling.
        overwrite: start over where the output exists.
        id_column, label_column, path_column, image_column, root: how ``data`` is read, as for
            :func:`kdbias.embed`.
        flip: embed the mirrored images too (verification, rfw, ijbc).
        teacher_output, precision, device, batch_size, workers: how ``data`` is embedded, with the defaults of
            :func:`kdbias.embed`.

    Raises:
        KdbiasError: unknown protocol, an option the protocol does not read, or input that does not fit.
    """
    started = time.monotonic()
    judge = _protocol(protocol)
    paths = {
        "reference": reference,
        "gallery": gallery,
        "tail_from": tail_from,
        "density": density,
        "pairs": pairs,
        "templates": templates,
        "detector_scores": detector_scores,
    }
    given = {
        **paths,
        "gallery_where": gallery_where or None,
        "flip": flip or None,
        "k": k,
        "cluster_by": cluster_by,
        "folds": folds,
        "style": style,
        "flip_fusion": check_fusion(flip_fusion),
        "far": far,
        "group_column": group_column,
        "camera_column": camera_column,
        "keep_norm": keep_norm,
    }
    options = _options(protocol, judge, given)
    if bootstrap is not None and bootstrap < 0:
        raise KdbiasError(f"bootstrap = {bootstrap}; give a number of resamples, or 0 for no intervals")
    reading = {
        "id_column": id_column,
        "label_column": label_column,
        "path_column": path_column,
        "image_column": image_column,
        "root": root,
        "flip": flip or None,
    }
    running = {
        "teacher_output": teacher_output,
        "precision": precision,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
    }
    judged, types = model_inputs(model, data, reading | running)
    config = {
        "protocol": protocol,
        "where": spelled(where, types),
        "gallery_where": spelled(gallery_where, types if gallery is None else column_types(gallery)),
        "group_by": list(group_by),
        "options": {name: value for name, value in options.items() if name not in paths},
        "bootstrap": bootstrap,
        "seed": seed,
        "embedding": None if data is None else {**reading, "root": None, "precision": precision or "fp32"},
    }
    inputs = judged | input_fingerprints(paths)

    def read(table: str | os.PathLike[str]) -> Task:
        flips = "flip" in judge.READS
        if gallery is None and gallery_where:
            others: Embeddings | None = read_embeddings(table, gallery_where, flips)
        else:
            others = None if gallery is None else read_embeddings(gallery, gallery_where)
        return Task(
            model=read_embeddings(table, where if data is None or gallery_where else (), flips),
            reference=None if reference is None else read_embeddings(reference),
            gallery=others,
            options=options,
        )

    def answer(table: str | os.PathLike[str]) -> tuple[Outcome, dict[str, Any]]:
        task = read(table)
        say(f"evaluate: {protocol}, {task.model.n:,} x {task.model.d} float32 on the CPU, from {table}")
        outcome = judge.judge(task)
        return outcome, measured(judge, outcome, group_by, bootstrap, seed)

    try:
        run = Run.open(output, _STAGE, config, inputs, overwrite, reads=(model, data, *paths.values()))
    except ConfigChangedError:
        if data is None:
            read(model)  # what is wrong in itself is named before what has changed
        raise
    if run.state == "finished":
        say(f"{run.out} is finished already; nothing to do")
        return EvaluationResult(read_metrics(run.out), run.out)
    try:
        table: str | os.PathLike[str] = model
        if data is not None:
            # With a gallery from the same data all of it is embedded, else only what is judged.
            embedding = reading | running | {"where": () if gallery_where else where}
            table = embed_model(data, run.out / "embeddings", str(model), embedding)
        outcome, facts = answer(table)
    except KdbiasError:
        run.forget()
        raise
    staged = run.stage()
    document = provenance.document(_STAGE, config, inputs, {plural(judge.UNIT): outcome.n}, 0.0)
    document |= {"protocol": protocol, "unit": judge.UNIT, "n": outcome.n, "left_out": dict(outcome.left_out)}
    document |= facts
    document |= {
        "sources": {
            role: origin(path) for role, path in {"model": table, **paths}.items() if path is not None
        },
        "parameters": dict(outcome.parameters),
        "test_data": {name: rows_fingerprint(rows) for name, rows in outcome.test_data.items()},
        "details": plain(outcome.details),
        "units": UNITS,
        "plots": save_plots(staged, outcome.plots),
    }
    document["seconds"] = round(time.monotonic() - started, 3)
    write_table(staged / UNITS, unit_table(outcome, group_by), document)
    write_json(staged / METRICS, document)
    named = {} if data is None else {"model": str(model), "data": str(data)}
    run.finish(document["counts"], document["seconds"], plots=document["plots"], paths=named)
    return EvaluationResult(document, run.out)


def _protocol(name: str) -> Any:
    if name not in PROTOCOLS:
        raise KdbiasError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return importlib.import_module(PROTOCOLS[name])


def _options(protocol: str, judge: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's options; refuses what was given and it does not read."""
    known = [*judge.OPTIONS, *sorted(judge.READS), *(["gallery_where"] if "gallery" in judge.READS else [])]
    unread = [name for name, value in given.items() if value is not None and name not in known]
    if unread:
        raise KdbiasError(
            f"the protocol {protocol} does not read {', '.join(unread)}; it reads {', '.join(known)}"
        )
    return {
        name: default if given.get(name) is None else _json_value(given[name])
        for name, default in judge.OPTIONS.items()
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value
