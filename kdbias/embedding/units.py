"""The parts of an embedding table while it grows: written whole, each with a completion record.

A part is a Parquet file; its record, written after it, says which configuration and input it belongs to and
holds the failures among its rows. A unit is done when its record fits this run and the part is there;
whatever else a killed process left is made again.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.opening import Source
from kdbias.embedding.plan import Plan, Unit
from kdbias.errors import KdbiasError, MachineError, first_line
from kdbias.tables import fingerprints, provenance, run_files
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_parts import PART_PATTERN, is_whole, normalise, part_name, write_part
from kdbias.tables.embedding_table import STAGE
from kdbias.tables.files import clean_temporaries
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_record import Run

FAILURES = "failures.parquet"
_RECORDS = "parts"
FAILURE_SCHEMA = pa.schema([("sample_id", pa.large_string()), ("path", pa.string()), ("reason", pa.string())])


@dataclass
class UnitResult:
    """What a unit came to: `rows` (m,) into the source and `vectors` (m, d) raw float32 in the same order.

    flipped   (m, d) of the mirrored images, or None
    failures  (row, reason) of the rows that could not be embedded
    seconds   where the time went
    """

    rows: np.ndarray
    vectors: np.ndarray
    flipped: np.ndarray | None
    failures: list[tuple[int, str]]
    seconds: dict[str, float]


def open_run(
    out: Path, config: dict[str, Any], inputs: dict[str, str], overwrite: bool, reads: Sequence[Any] = ()
) -> Run:
    """Begin, resume or find finished the run in `out`, and clear what a killed one left half-written.

    `reads` are paths that the run reads, which `overwrite` must not replace.
    """
    run = Run.open(out, STAGE, config, inputs, overwrite, reads=reads, mends=True)
    clean_temporaries(out / _RECORDS)
    return run


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full or failing disk into one line that says how to go on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise MachineError(
            f"cannot write to {out} ({reason}); mend that and run the same command again: "
            "finished parts are kept"
        ) from error


class Parts:
    """Writes and finds the parts of one run."""

    def __init__(self, run: Run, source: Source, plan: Plan, teacher_name: str) -> None:
        self.run, self.source, self.plan, self.teacher_name = run, source, plan, teacher_name
        self.config, self.inputs = run.record["config"], run.record["inputs"]
        self._mark = time.perf_counter()
        self._belongs = fingerprints.of_json([self.config, self.inputs])

    def record_path(self, unit: Unit) -> Path:
        return self.run.out / _RECORDS / f"{part_name(unit.index).removesuffix('.parquet')}.json"

    def done(self, unit: Unit, thorough: bool = False) -> dict[str, Any] | None:
        """The completion record of a unit that needs no more work, else None.

        `thorough` reads the part and compares its values with the digest of what was written.
        """
        try:
            record = read_json(self.record_path(unit))
        except KdbiasError:
            return None
        if record.get("run") != self._belongs or (record["start"], record["stop"]) != (unit.start, unit.stop):
            return None
        if record["rows"] and not is_whole(self.run.out / part_name(unit.index), record["content"], thorough):
            return None
        return record

    def refuse_strays(self) -> None:
        """Raises KdbiasError where a part lies in the folder that is not one of the run's."""
        known = {part_name(unit.index) for unit in self.plan.units}
        strays = sorted(path.name for path in self.run.out.glob(PART_PATTERN) if path.name not in known)
        if strays:
            raise KdbiasError(f"{self.run.out / strays[0]} is no part of this table; move it away")

    @property
    def complete(self) -> bool:
        """Whether all parts are there, whoever makes them, and the list of failures."""
        return run_files.is_whole(self.run.out / FAILURES) and all(map(self.done, self.plan.units))

    def write(self, unit: Unit, result: UnitResult) -> None:
        """Normalise and write one unit, then its record.

        Raises KdbiasError naming the ids where the teacher gave NaN, infinity or zero vectors, and where the
        disk is full.
        """
        with disk_errors(self.run.out):
            self._write(unit, result)

    def _write(self, unit: Unit, result: UnitResult) -> None:
        self.run.require_folder()
        taken = pa.array(result.rows)
        ids = self.source.ids.take(taken)
        labels = None if self.source.labels is None else self.source.labels.take(taken)
        groups = {name: values.take(taken) for name, values in self.source.groups.items()}
        counts = {"rows": len(result.rows), "failures": len(result.failures)}
        seconds, begun = dict(result.seconds), time.perf_counter()
        content = fingerprints.of_json([])
        path = self.run.out / part_name(unit.index)
        if len(result.rows):
            where = f"embeddings of {self.teacher_name}"
            unit_vectors, norms = normalise(result.vectors, ids, where)
            flipped, flip_norms = (
                (None, None)
                if result.flipped is None
                else normalise(result.flipped, ids, f"mirrored {where}")
            )
            more = {"part": unit.index, "teacher": self.teacher_name}
            doc = provenance.document(STAGE, self.config, self.inputs, counts, seconds["elapsed"], **more)
            content = write_part(
                path, ids, labels, groups, norms, unit_vectors, doc, self.plan.store, flipped, flip_norms
            )
        else:
            path.unlink(missing_ok=True)
        record = {
            "run": self._belongs,
            "start": unit.start,
            "stop": unit.stop,
            **counts,
            "content": content,
            "seconds": self._spent(seconds, begun),
            "failed": [
                {"sample_id": self.source.ids[row].as_py(), "path": self._location(row), "reason": reason}
                for row, reason in result.failures
            ],
        }
        write_json(self.record_path(unit), record)

    def _spent(self, seconds: dict[str, float], begun: float) -> dict[str, float]:
        """Seconds of a unit whose writing began at `begun`.

        "elapsed" is the clock's since the last unit was written, so that it adds up to the whole run's.
        """
        now = time.perf_counter()
        elapsed, self._mark = now - self._mark, now
        return {**seconds, "elapsed": elapsed, "write": now - begun}

    def forget(self) -> None:
        """Leave nothing behind that would refuse mended images as changed data."""
        shutil.rmtree(self.run.out / _RECORDS, ignore_errors=True)
        self.run.forget()

    def finish(self, records: list[dict[str, Any]], details: dict[str, Any]) -> dict[str, float]:
        """Write `failures.parquet` and mark the run finished; returns the seconds by activity.

        The table's fingerprint is the digest of the parts' contents, the same however often it was killed.
        """
        failed = [row for record in records for row in record["failed"]]
        samples = sum(record["rows"] for record in records)
        if not samples:
            self.forget()
            raise KdbiasError(
                f"all {len(failed):,} images failed, nothing was embedded; the first: "
                f"{failed[0]['sample_id']} ({failed[0]['path']}): {failed[0]['reason']}"
            )
        seconds: dict[str, float] = {}
        for record in records:
            for name, value in record["seconds"].items():
                seconds[name] = seconds.get(name, 0.0) + value
        counts = {"samples": samples, "failures": len(failed), "parts": sum(bool(r["rows"]) for r in records)}
        named = {"teacher": self.teacher_name}  # for people; its fingerprint is what identifies it
        doc = provenance.document(STAGE, self.config, self.inputs, counts, seconds["elapsed"], **named)
        table = pa.Table.from_pylist(failed, schema=FAILURE_SCHEMA)
        write_table(self.run.out / FAILURES, table, doc)
        contents = [record["content"] for record in records if record["rows"]]
        self.run.finish(
            counts,
            seconds["elapsed"],
            fingerprint=fingerprints.of_json(contents),
            d=self.plan.dim,
            timings={k: round(v, 3) for k, v in seconds.items()},
            images_per_second=round(samples / max(seconds["elapsed"], 1e-9), 1),
            **named,
            **details,
        )
        return seconds

    def _location(self, row: int) -> str:
        try:
            return self.source.location(row)
        except Exception:  # a place that cannot even be named must not hide the failure itself
            return ""
