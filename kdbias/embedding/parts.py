"""The parts of an embedding table: planned, shared among processes, written whole, found again.

A part is a Parquet file; its record, written after it, says which configuration and input it belongs to and
holds the failures among its rows. A part is done when its record fits this run and the file is there;
whatever else a killed process left is made again. The plan is a pure function of counts, so that a run can be
described, split and resumed without looking at data; processes exchange nothing but files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.opening import Source
from kdbias.embedding.embedded import Embedded
from kdbias.errors import KdbiasError, MachineError, first_line
from kdbias.tables import fingerprints, provenance, run_files
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_parts import STORES, is_whole, normalise, write_part
from kdbias.tables.embedding_record import STAGE
from kdbias.tables.files import remove, remove_tree
from kdbias.tables.listing import PART_PATTERN, PART_ROWS, list_parts, part_name
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_record import Run
from kdbias.wording import counted, human_bytes

FAILURES = "failures.parquet"
RECORDS = "parts"
_PARTS, _ROWS = 16, (2048, 16_384)
_HUGE = 10_000_000  # samples from which on parts are larger, so that there are not too many


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` (exclusive) of the data."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many samples the part has."""
        return self.stop - self.start

    def all_rows(self) -> np.ndarray:
        """Its rows of the data, (m,)."""
        return np.arange(self.start, self.stop)


def usual_rows(n: int) -> int:
    """Rows of a part: an interruption costs a small run little, and a large one has few files."""
    return PART_ROWS if n >= _HUGE else min(max(-(-n // _PARTS), _ROWS[0]), _ROWS[1])


@dataclass(frozen=True)
class Plan:
    """n samples of dimension `dim` in parts of `rows_per_part`, shared by `world` processes."""

    n: int
    dim: int
    rows_per_part: int
    store: str
    flip: bool
    rank: int = 0
    world: int = 1

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        step = self.rows_per_part
        return [Part(i, start, min(start + step, self.n)) for i, start in enumerate(range(0, self.n, step))]

    @property
    def own_parts(self) -> list[Part]:
        """The parts of this process: every `world`-th, so that all finish at about the same time."""
        return self.parts[self.rank :: self.world]

    @property
    def bytes(self) -> int:
        """Of all vectors."""
        return self.n * self.dim * STORES[self.store].bit_width // 8 * (2 if self.flip else 1)

    def describe(self) -> str:
        """One line for people."""
        views = " and their mirror images" if self.flip else ""
        text = (
            f"plan: {counted(self.n, 'sample')}{views} -> {counted(len(self.parts), 'part')} of up to "
            f"{counted(self.rows_per_part, 'row')}, {self.dim}-d {self.store} vectors, "
            f"{human_bytes(self.bytes)}"
        )
        if self.world > 1:
            text += f"; process {self.rank} of {self.world} makes {len(self.own_parts):,} of them"
        return text


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
    """Writes and finds the parts of one run.

    Attributes:
        changes: how the data differ from those of an earlier table, for the record; nothing without one.
    """

    changes: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, run: Run, source: Source, plan: Plan, teacher: str, config: dict[str, Any]) -> None:
        self.run, self.source, self.plan, self.teacher = run, source, plan, teacher
        self.config, self.inputs = run.record["config"], run.record["inputs"]
        self._mark = time.perf_counter()
        # An earlier record may lack options that `config` has; so may the records of its parts.
        known = [fingerprints.of_json([made_from, self.inputs]) for made_from in (self.config, config)]
        self._belongs, self._known = known[0], known

    def _record_path(self, part: Part) -> Path:
        return self.run.out / RECORDS / f"{part_name(part.index).removesuffix('.parquet')}.json"

    def done(self, part: Part, thorough: bool = False) -> dict[str, Any] | None:
        """The completion record of a part that needs no more work, else None.

        `thorough` reads the part and compares its values with the digest of what was written.
        """
        try:
            record = read_json(self._record_path(part))
        except KdbiasError:
            return None
        place = (record["start"], record["stop"])
        if record.get("run") not in self._known or place != (part.start, part.stop):
            return None
        if record["rows"] and not is_whole(self.run.out / part_name(part.index), record["content"], thorough):
            return None
        return record

    def waiting(self) -> list[Part]:
        """The parts of this process that are still to be made, or to be made again."""
        return [part for part in self.plan.own_parts if self.done(part, thorough=True) is None]

    def rows_of(self, part: Part) -> np.ndarray:
        """The rows of a part that are to be embedded."""
        return part.all_rows()

    def refuse_strays(self) -> None:
        """Raises KdbiasError where a part lies in the folder that is not one of the run's."""
        known = {part_name(part.index) for part in self.plan.parts}
        strays = sorted(path.name for path in self.run.out.glob(PART_PATTERN) if path.name not in known)
        if strays:
            raise KdbiasError(f"{self.run.out / strays[0]} is no part of this table; move it away")

    @property
    def complete(self) -> bool:
        """Whether all parts are there, whoever makes them, and the list of failures."""
        return run_files.is_whole(self.run.out / FAILURES) and all(map(self.done, self.plan.parts))

    def write(self, part: Part, found: Embedded) -> None:
        """Normalise and write one part, then its record.

        Raises KdbiasError naming the ids where the teacher gave NaN, infinity or zero vectors.
        """
        self.run.require_folder()
        begun = time.perf_counter()
        counts = {"rows": len(found.rows), "failures": len(found.failures)}
        content = self._write_vectors(part, found, counts)
        now = time.perf_counter()
        record = {
            "run": self._belongs,
            "start": part.start,
            "stop": part.stop,
            **counts,
            "content": content,
            # The clock's since the last part was written, so that it adds up to the whole run's.
            "seconds": {**found.seconds, "elapsed": now - self._mark, "write": now - begun},
            "failed": failed_rows(self.source, found.failures),
        }
        self._mark = now
        write_json(self._record_path(part), record)

    def _write_vectors(self, part: Part, found: Embedded, counts: dict[str, int]) -> str:
        """Write the file of a part, if it has rows; returns the digest of its content."""
        path = self.run.out / part_name(part.index)
        if not len(found.rows):
            remove(path)
            return fingerprints.of_json([])
        taken, where = pa.array(found.rows), f"embeddings of {self.teacher}"
        ids = self.source.ids.take(taken)
        labels = None if self.source.labels is None else self.source.labels.take(taken)
        groups = {name: values.take(taken) for name, values in self.source.groups.items()}
        vectors, norms, flipped, flip_norms = found.vectors, found.norms, found.flipped, found.flip_norms
        if norms is None:
            vectors, norms = normalise(vectors, ids, where)
        if flipped is not None and flip_norms is None:
            flipped, flip_norms = normalise(flipped, ids, f"mirrored {where}")
        seen = found.facts, found.digests
        doc = self._provenance(counts, found.seconds["elapsed"], part=part.index)
        return write_part(
            path, ids, labels, groups, norms, vectors, doc, self.plan.store, flipped, flip_norms, *seen
        )

    def _provenance(self, counts: dict[str, int], seconds: float, **more: Any) -> dict[str, Any]:
        # The teacher's name is for people; its fingerprint is what identifies it.
        return provenance.document(
            STAGE.name, self.config, self.inputs, counts, seconds, **more, teacher=self.teacher
        )

    def finish(self, records: list[dict[str, Any]], details: dict[str, Any]) -> dict[str, float]:
        """Write `failures.parquet` and mark the run finished; returns the seconds by activity.

        The table's fingerprint is the digest of the parts' contents, the same however often it was killed.
        """
        failed = [row for record in records for row in record["failed"]]
        samples = sum(record["rows"] for record in records)
        if not samples:  # leave nothing behind that would refuse mended images as changed data
            remove_tree(self.run.out / RECORDS)
            self.run.forget()
            raise KdbiasError(
                f"all {len(failed):,} images failed, nothing was embedded; the first: "
                f"{failed[0]['sample_id']} ({failed[0]['path']}): {failed[0]['reason']}"
            )
        embedded = samples - self.changes.get("kept", 0)
        seconds: dict[str, float] = {}
        for record in records:
            for name, value in record["seconds"].items():
                seconds[name] = seconds.get(name, 0.0) + value
        counts = {"samples": samples, "failures": len(failed), "parts": sum(bool(r["rows"]) for r in records)}
        doc = self._provenance(counts, seconds["elapsed"])
        write_failures(self.run.out, failed, doc)
        list_parts(self.run.out, samples, doc)
        contents = [record["content"] for record in records if record["rows"]]
        self.run.finish(
            counts,
            seconds["elapsed"],
            fingerprint=fingerprints.of_json(contents),
            d=self.plan.dim,
            timings={k: round(v, 3) for k, v in seconds.items()},
            images_per_second=round(embedded / max(seconds["elapsed"], 1e-9), 1),
            teacher=self.teacher,
            **details,
            **({"grown": self.changes} if self.changes else {}),
        )
        return seconds


def failed_rows(source: Source, failures: Iterable[tuple[int, str]]) -> list[dict[str, str]]:
    """Id, path and reason of rows of the data whose images cannot be read."""

    def location(row: int) -> str:
        try:
            return source.location(row)
        except Exception:  # a place that cannot even be named must not hide the failure itself
            return ""

    return [
        {"sample_id": source.ids[row].as_py(), "path": location(row), "reason": reason}
        for row, reason in failures
    ]


def write_failures(folder: Path, failed: list[dict[str, str]], doc: dict[str, Any]) -> None:
    """Write what `failed_rows` gave to failures.parquet, with provenance."""
    columns = [("sample_id", pa.large_string()), ("path", pa.string()), ("reason", pa.string())]
    write_table(folder / FAILURES, pa.Table.from_pylist(failed, schema=pa.schema(columns)), doc)
