"""new_study(): the description of a study of some data, ready to run and to edit."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdbias.command_lines import option_words
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.studies.draft import BATCH, Draft
from kdbias.studies.settings import NewStudySettings
from kdbias.tables.run_files import claim
from kdbias.targets.settings import Aiming
from kdbias.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class NewStudy(Result):
    """A file that `new_study` wrote, and the study that it describes."""

    path: Path
    draft: Draft
    _elsewhere: ClassVar[str] = "; kdbias.study runs the file, and its result has one"

    def blocks(self) -> list[str | Table]:
        """What the file compares, and how to run it."""
        draft = self.draft
        judged = "a held-out part" if draft.deployment is None else draft.deployment.source
        runs = len(draft.arms) * len(draft.seeds)
        by = f" by {', '.join(draft.groups)}" if draft.groups else ""
        return [
            f"{self.path}: {', '.join(draft.arms)}; {counted(draft.steps, 'step')} of {BATCH} images, "
            f"{counted(len(draft.seeds), 'seed')}, so {counted(runs, 'student')}; judged on {judged}{by}",
            f"run it with: {shlex.join(['kdbias', 'study', str(self.path)])}",
        ]

    def to_pandas(self) -> pd.DataFrame:
        """A row an arm: its name, what it is and its options of `kdbias.weights`."""
        import pandas as pd

        arms = self.draft.arms.items()
        return pd.DataFrame([{"arm": name, "what": what, **options} for name, (options, what) in arms])

    @property
    def document(self) -> dict[str, Any]:
        """The result as JSON values."""
        draft = self.draft
        return {
            "path": str(self.path),
            "arms": list(draft.arms),
            "groups": list(draft.groups),
            "steps": draft.steps,
            "seeds": list(draft.seeds),
        }


@takes_settings(NewStudySettings)
def new_study(
    data: str | os.PathLike[str], output: str | os.PathLike[str], *, settings: NewStudySettings
) -> NewStudy:
    """Write the description of a study of some data, ready to run and to edit.

    Args:
        data: what `kdbias.open_data` reads, or an embedding table, which knows its data and teacher.
        output: the TOML file to write; one that is there is left alone.

    Raises:
        KdbiasError: the file is there, no teacher is named, or data or target cannot be read.
    """
    target = claim(output)
    if target.suffix != ".toml":
        raise KdbiasError(f"{target}: a study is a TOML file; name it {target.with_suffix('.toml')}")
    if target.exists():
        raise KdbiasError(f"{target} exists already, with your changes perhaps; name another or remove it")
    draft = Draft.of(
        data,
        teacher=settings.teacher,
        aim=Aiming(towards=settings.towards),
        group_by=settings.group_by,
        read=settings.columns,
    )
    draft = replace(draft, flip=settings.flip)
    given = {d.name: getattr(settings, d.name) for d in settings.declared() if d.name not in settings.left}
    words = ["kdbias", "study", "--init", os.fspath(data), "-o", str(output)]
    command = shlex.join([*words, *option_words(NewStudySettings, given)])
    draft.write(target, command, shlex.join(["kdbias", "study", str(target)]))
    return NewStudy(target, draft)
