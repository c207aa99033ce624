"""The loop of `train`, without callbacks.

Options and defaults: `settings`. Inputs: `data`, `images`. Parts of a step: `step`, `kdbias.losses`. What a
run leaves: `record`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from kdbias.data.filters import spelled
from kdbias.device import out_of_memory
from kdbias.embedding.parts import FAILURES, write_failures
from kdbias.errors import KdbiasError, MachineError, first_line
from kdbias.loading import worker_deaths
from kdbias.networks.saved import FILE_NAME, save_network
from kdbias.progress import bar, is_quiet, quiet, say
from kdbias.sampler.identity_sampler import IdentitySampler
from kdbias.sampler.manifest_sampler import ManifestSampler
from kdbias.tables import fingerprints, provenance
from kdbias.tables.run_files import holes
from kdbias.tables.run_record import Run
from kdbias.training.data import TrainingSet, open_training_set
from kdbias.training.images import WAY_OUT, open_images
from kdbias.training.learner import build_learner
from kdbias.training.processes import Processes, deferred_interrupts, join_processes
from kdbias.training.record import METRICS, STAGE, Meter, Record
from kdbias.training.result import TrainingResult, result_of
from kdbias.training.settings import TrainingSettings
from kdbias.training.step import (
    build_optimiser,
    descend,
    draw_flips,
    mirror,
    move_average,
    rate_factor,
    reproducible,
    seed_step,
)
from kdbias.wording import counted


def run_training(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool,
    overwrite: bool,
    cfg: TrainingSettings,
) -> TrainingResult:
    """`kdbias.train`, of settings and inputs that have been looked at."""
    with (
        join_processes(cfg.device) as processes,
        quiet(not processes.main or is_quiet()),
        reproducible(cfg, processes.device),
    ):
        samples = open_training_set(os.fspath(data), cfg, processes)
        identity = cfg.record() | {"where": spelled(cfg.where, samples.source.types())}
        paths = {"data": str(data)} | {k: getattr(cfg, k) for k in ("embeddings", "weights", "root")}

        def begin() -> Run:
            reads = (data, cfg.embeddings, cfg.weights)
            usual, inputs = cfg.defaults(identity), samples.inputs
            run = Run.open(
                output, STAGE, identity, inputs, overwrite, defaults=usual, reads=reads, mends=True
            )
            if resume and run.state != "finished" and not Record(run.out).has_checkpoint:
                run.forget()
                raise KdbiasError(
                    f"--resume: {run.out} holds no checkpoint to resume; leave --resume out to start"
                )
            return run

        run = processes.on_main(begin)
        with run if processes.main else contextlib.nullcontext():
            lost = processes.on_main(lambda: holes(run.out)) if run.state == "finished" else []
            if lost:
                say(f"train: {run.out} was finished, but {', '.join(lost)} is gone or damaged: made again")
            elif run.already_finished():
                return result_of(run, already_finished=True)
            with worker_deaths(WAY_OUT), memory_wanting(cfg.batch_size):
                student, how, meter = fit(samples, cfg, Record(run.out), processes, data)
            more = {"paths": paths, **samples.sharding(processes.world_size)}
            run = processes.on_main(lambda: _finish(run, samples, cfg, student, how, meter, more))
        epochs = f"{counted(meter.epoch, 'epoch')} in {meter.seconds:.1f} s"
        say(f"train: {epochs}, {meter.describe_last()} -> {run.out}")
        if meter.unreadable:
            say(
                f"{len(meter.unreadable):,} of {samples.n:,} samples cannot be read; see {run.out / FAILURES}"
            )
        return result_of(run)


@contextlib.contextmanager
def memory_wanting(batch_size: int) -> Iterator[None]:
    """Say what helps where the device, or the machine, has no memory left for what is done inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise MachineError(
            f"out of memory at --batch-size {batch_size} ({first_line(error)}): halve it (and --lr with it), "
            "or use --precision bf16; the run resumes only with the same values, so add --overwrite"
        ) from error


def _finish(
    run: Run,
    samples: TrainingSet,
    cfg: TrainingSettings,
    student: nn.Module,
    how: dict[str, Any],
    meter: Meter,
    more: dict[str, Any],
) -> Run:
    """Write failures.parquet, student.pt and student.onnx, as far as there are such, and the record."""
    counts = {
        "samples": samples.n,
        "steps": meter.step,
        "epochs": meter.epoch,
        "classes": len(samples.classes),
        "failures": len(meter.unreadable),
    }
    doc = provenance.document(STAGE.name, run.record["config"], samples.inputs, counts, meter.seconds)
    if failed := samples.unreadable.rows():
        write_failures(run.out, failed, doc)
    path, classes = run.out / FILE_NAME, samples.classes
    save_network(
        path, student, cfg.student, how, samples.preprocessing.to_dict(), {**doc, "classes": classes}
    )
    if cfg.onnx:
        from kdbias.networks.onnx_export import export_onnx

        export_onnx(path, path.with_suffix(".onnx"))
    digests = {METRICS: fingerprints.of_file(run.out / METRICS)}
    results = meter.history[-1]
    run.finish(counts, meter.seconds, results=results, classes=classes, digests=digests, **more)
    return run


def fit(  # noqa: C901
    samples: TrainingSet, cfg: TrainingSettings, record: Record, processes: Processes, data: Any
) -> tuple[nn.Module, dict[str, Any], Meter]:
    """The loop. Returns the trained network, the arguments that build it again, and what was measured."""
    device, prepare = processes.device, samples.preprocessing
    how, network, loss_of, learner = build_learner(samples, cfg, device)
    optimiser = build_optimiser(learner, cfg)
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
    average = copy.deepcopy(network).requires_grad_(False).eval() if cfg.ema else None
    learned = {"learner": learner, "optimiser": optimiser, "scaler": scaler, "average": average}

    share = processes.share(cfg.batch_size, cfg.batch_size if cfg.instances else samples.n)
    if share < 2 and samples.n > 1:
        raise KdbiasError(
            f"--batch-size {cfg.batch_size} and {counted(samples.n, 'image', 'leaves/leave')} {share} a step "
            f"for each of {counted(processes.world_size, 'process')}; batch norm needs two or more"
        )
    batch_size = share * processes.world_size
    sampler = build_sampler(samples, cfg, processes)
    steps_an_epoch = sampler.steps(share)
    steps = cfg.steps or cfg.epochs * steps_an_epoch
    epochs, warmup_steps = math.ceil(steps / steps_an_epoch), _warmup_steps(cfg, steps, steps_an_epoch)
    unreadable = samples.unreadable
    images = open_images(unreadable, samples.preprocessings, pin=device.type == "cuda")
    meter = record.resume(learned, sampler, processes) or Meter(loss_of.names)
    unreadable.reasons |= meter.unreadable
    meter.unreadable = unreadable.reasons
    begun = meter.place(batch_size, steps_an_epoch)
    if processes.main:
        record.begin(cfg, data, meter.step)
        _say_what_runs(cfg, samples, processes, batch_size, (epochs, steps), begun, network)
    learn = processes.wrap(learner)

    # Of several processes each would hear of it at another step.
    alone = processes.world_size == 1
    with bar(steps, "steps", "train", done=begun) as progress, deferred_interrupts(alone) as interrupted:
        while meter.epoch < epochs:
            meter.wait_from = time.perf_counter()
            # Other processes may have left so little of an epoch that the sampler went on to the next one.
            left = sampler.batches(share) if sampler.epoch == meter.epoch else iter(())
            due = max(0, steps - meter.place(batch_size, steps_an_epoch))
            for batch in images.batches(islice(left, due)):
                meter.waited()
                flips = None
                if cfg.flip != "none":
                    flips = draw_flips(
                        cfg.seed, meter.step, len(batch.rows), processes.rank, processes.world_size
                    )
                pixels = batch.images[0].to(device, non_blocking=True)
                targets = samples.targets_of(batch, flips if cfg.flip == "target" else None, device)

                seed_step(cfg.seed, meter.step, processes.rank)
                pixels = pixels if flips is None else mirror(pixels, flips)
                loss = learn(prepare.normalise(pixels, channels_last=True), targets)
                place = meter.place(batch_size, steps_an_epoch)
                rate = cfg.rate * rate_factor(place, steps, cfg.schedule, warmup_steps, cfg.milestones)
                descend(loss, learner, optimiser, scaler, rate=rate, clip_grad=cfg.clip_grad)
                if average is not None:
                    move_average(average, network, cfg.ema, meter.step)

                meter.add(loss_of.parts, len(batch.rows), rate, processes, batch.replaced)
                progress.update(1)
                if processes.main:
                    record.scalars(meter, loss_of.parts)
                    if record.due(cfg.checkpoint_seconds) or interrupted():
                        record.save(learned, sampler.state_dict(meter.position), meter)
                if interrupted():
                    raise KeyboardInterrupt
            record.require_finite(meter)
            # Before the others go on, who would make the next order beside the one that is counted.
            drawn = sampler.drawn(meter.epoch, meter.position) if processes.main else {}
            for reasons in processes.gather(unreadable.reasons):
                unreadable.reasons |= reasons
            meter.end_epoch(drawn)
            sampler.set_epoch(meter.epoch)
            progress.set_postfix_str(meter.describe_last())
            if processes.main:
                record.write_metrics(meter.history)
                if record.due(cfg.checkpoint_seconds) or meter.epoch == epochs:
                    record.save(learned, sampler.state_dict(), meter)
    return (network if average is None else average), how, meter


def _warmup_steps(cfg: TrainingSettings, steps: int, steps_an_epoch: int) -> int:
    """Steps over which the rate rises; of a run that is shorter than the usual warmup, all.

    Raises:
        KdbiasError: a warmup that was asked for is longer than the run.
    """
    wanted = round(cfg.warmup * steps_an_epoch)
    if wanted > steps and "warmup" not in cfg.left:
        raise KdbiasError(
            f"train: warmup is {cfg.warmup:g} epochs ({counted(wanted, 'step')}) and the run has {steps:,}, "
            "so that the learning rate would never reach its peak; give a shorter warmup"
        )
    return min(wanted, steps)


def build_sampler(
    samples: TrainingSet, cfg: TrainingSettings, processes: Processes
) -> ManifestSampler | IdentitySampler:
    """Draw samples by their weights, or with --instances identities by the sum of theirs."""
    place: dict[str, Any] = {"seed": cfg.seed, "rank": processes.rank, "world_size": processes.world_size}
    if not cfg.instances:
        # Nobody else holds them, so that they are freed where all processes of the machine share them.
        weights, samples.weights = samples.weights, np.empty(0)
        return ManifestSampler(weights, mode=cfg.sampling, shards=samples.shards, **place)
    if cfg.batch_size % cfg.instances:
        raise KdbiasError(f"--batch-size {cfg.batch_size} is no multiple of --instances {cfg.instances}")
    if samples.source.labels is None:
        raise KdbiasError("--instances draws identities, and the data has no labels: give --label-column")
    count = cfg.batch_size // cfg.instances
    return IdentitySampler(
        samples.weights, samples.source.labels, identities=count, instances=cfg.instances, **place
    )


def _say_what_runs(
    cfg: TrainingSettings,
    samples: TrainingSet,
    processes: Processes,
    batch_size: int,
    length: tuple[int, int],
    step: int,
    network: nn.Module,
) -> None:
    """Say what is about to run, and from how many shards at a time it draws.

    Args:
        length: in epochs (the last one whole or not) and steps.
        step: that it goes on from.
    """
    (height, width), channels = samples.preprocessing.size, samples.preprocessing.channels
    cut = f" (of --batch-size {cfg.batch_size:,}: there are no more)" if batch_size < cfg.batch_size else ""
    together = f", {counted(processes.world_size, 'process')}" if processes.world_size > 1 else ""
    labels = f" of {len(samples.classes):,} classes" if samples.classes else ""
    begun = f" (resuming at step {step:,})" if step else ""
    parameters = sum(p.numel() for p in network.parameters())
    say(
        f"train: {processes.device} {cfg.precision}, {counted(torch.get_num_threads(), 'thread')}{together}, "
        f"batch {batch_size}{cut}, {counted(samples.n, 'image')} {height}x{width}x{channels}{labels}, "
        f"{counted(length[0], 'epoch')}, {counted(length[1], 'step')}{begun}; "
        f"{cfg.student} ({counted(parameters, 'parameter')}), loss {cfg.loss}"
    )
    for near in samples.sharding(processes.world_size).values():
        say(
            "train: each process draws from {at_hand} of {shards:,} shards at a time, about "
            "{neighbourhood:,} images".format(**near)
        )
