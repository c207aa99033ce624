"""The stages of a run: each a call of a public function, and the command that equals it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.command_lines import Step, command_line, option_words
from kdbias.data.access import is_uri
from kdbias.data.opening import kind_of, require_data
from kdbias.data.settings import COLUMNS
from kdbias.embedding.settings import EmbedSettings
from kdbias.errors import KdbiasError
from kdbias.measurement.settings import UniformitySettings
from kdbias.pipeline.settings import RunSettings
from kdbias.reporting.settings import ReportSettings
from kdbias.scratch import recorded
from kdbias.tables.csv_file import DELIMITERS, csv_columns
from kdbias.tables.parquet_file import read_schema
from kdbias.tables.run_record import RECORD, read_record
from kdbias.targets.settings import Named
from kdbias.weighting.settings import WeightsSettings

_OF_TEACHER = (
    *("teacher", "teacher_output", "preprocessing", "precision", "store", "flip"),
    *("batch_size", "device", "workers", "on_error", "channels_last", "compile"),
)
"""Options of `embed` that hold for the reference as well: all but those that say how DATA is read."""


@dataclass(frozen=True)
class Steps:
    """The stages of a run in its folder.

    Attributes:
        data: as it was named.
        out: the folder.
        settings: of the run.
    """

    data: str
    out: str
    settings: RunSettings

    @property
    def embeddings(self) -> str:
        """Where the embedding table is written."""
        return os.path.join(self.out, "embeddings")

    @property
    def density(self) -> str:
        """Where the measurement is written."""
        return os.path.join(self.out, "density")

    @property
    def weights(self) -> str:
        """The manifest."""
        return os.path.join(self.out, "weights.parquet")

    @property
    def page(self) -> str:
        """The page."""
        return os.path.join(self.out, "report.html")

    @property
    def images_of_target(self) -> str | None:
        """Images that are still to be embedded as the reference; None for a table, or another target.

        Raises:
            KdbiasError: nothing there, or no data.
        """
        named = self.settings.named
        if named is None or named.kind != "reference" or (Path(named.what) / RECORD).exists():
            return None
        try:
            require_data(named.what)
        except KdbiasError as error:
            raise KdbiasError(f"--towards: {error}") from None
        if self.settings.precomputed:
            raise KdbiasError(
                f"--towards {named.what} are images, and {self.settings.teacher} embeds none: name the "
                f"embedding table of the reference (kdbias embed {named.what} -o REF --teacher "
                "precomputed:ITS_FILE)"
            )
        return named.what

    @property
    def reading_of_target(self) -> dict[str, Any]:
        """The columns that were named for the data, as far as a target that is a table of images has them."""
        asked, images = _given(self.settings, COLUMNS), self.images_of_target or ""
        if not asked or kind_of(images) != "table" or os.path.isdir(images) or is_uri(images):
            return {}
        suffix = Path(images).suffix.lower()
        is_text = suffix in DELIMITERS
        known = csv_columns(Path(images), DELIMITERS[suffix]) if is_text else read_schema(Path(images)).names
        return {name: value for name, value in asked.items() if value in known}

    @property
    def is_embedded(self) -> bool:
        """Whether the embedding table is there already."""
        folder = Path(self.embeddings)
        return (folder / RECORD).exists() and read_record(folder).get("status") == "finished"

    @property
    def towards(self) -> str | None:
        """The target as the stages are told of it."""
        named = self.settings.named
        if named is None or self.images_of_target is None:
            return self.settings.towards
        return Named(named.kind, os.path.join(self.out, "reference"), named.by).text

    @property
    def aim(self) -> dict[str, Any]:
        """The target as options."""
        s = self.settings
        return {"towards": self.towards, "with_column": s.with_column, "cluster_by": s.cluster_by}

    def all(self) -> Iterator[Step]:
        """The stages in their order; the small reference first: what is wrong with it shows at once."""
        s, images = self.settings, self.images_of_target
        if images is not None:
            options = _given(s, _OF_TEACHER) | self.reading_of_target
            where = os.path.join(self.out, "reference")
            yield Step("embed the reference", "embed", images, where, options, EmbedSettings)
        options = _given(s, [d.name for d in EmbedSettings.declared() if d.name != "plan"])
        yield Step("embed the data", "embed", self.data, self.embeddings, options, EmbedSettings)
        shared = {"memory": s.memory, "threads": s.threads}
        title = "measure how crowded they are" + (", and how far from the target" if self.towards else "")
        measuring = _given(s, ["device"]) | shared
        options = _known({**self.aim, "group_by": s.group_by, **measuring})
        yield Step(title, "uniformity", self.embeddings, self.density, options, UniformitySettings)
        options = _known({**self.aim, "min_ess": s.min_ess, **shared})
        yield Step("weigh them", "weights", self.density, self.weights, options, WeightsSettings)
        title, options = "measure them as they are weighed", _known({"weights": (self.weights,), **measuring})
        yield Step(title, "uniformity", self.embeddings, self.density, options, UniformitySettings)

    @property
    def report(self) -> dict[str, Any]:
        """The options of the page."""
        s = self.settings
        root = s.root or (self.data if Path(self.data).is_dir() else os.path.dirname(self.data) or ".")
        options = {"title": f"kdbias: {Path(self.data).name}", "root": None if is_uri(root) else root}
        return _known(options | _given(s, ["pictures"]))

    @property
    def report_command(self) -> str:
        """The command that writes the page."""
        words = ["kdbias", "report", self.density, self.weights, "-o", self.page]
        return shlex.join(recorded([*words, *option_words(ReportSettings, self.report)]))

    def again(self, towards: str) -> str:
        """The command of the run with a target."""
        options = _given(self.settings, [d.name for d in RunSettings.declared() if d.name != "plan"])
        options |= {"towards": towards, "overwrite": True}
        return command_line("run", self.data, self.out, RunSettings, options)


def _given(settings: RunSettings, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that are not at their defaults."""
    return _known({name: getattr(settings, name) for name in names if name not in settings.left})


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Those that have a value."""
    return {name: value for name, value in options.items() if value not in (None, ())}
