"""How a target is named: `--towards` and `--with`. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from kdbias.errors import KdbiasError
from kdbias.settings import Settings, option

_BALANCED = "balanced:"
SPHERE = "sphere"
EACH_ALONE = "none"
"""Of `--cluster-by`: no sample of a reference depends on another."""
Kind = Literal["sphere", "reference", "balanced"]


@dataclass(frozen=True)
class Named:
    """A target as it was named.

    Attributes:
        kind: what it is.
        what: the reference's folder, or the column that is balanced; empty for the sphere.
        by: the file with the reference's weights, or with the shares of the column's values.
    """

    kind: Kind
    what: str = ""
    by: str | None = None

    @property
    def text(self) -> str:
        """What `--towards` was given."""
        by = "" if self.by is None else f"@{self.by}"
        return SPHERE if self.kind == SPHERE else f"{_BALANCED * (self.kind == 'balanced')}{self.what}{by}"

    @classmethod
    def of(cls, text: str) -> Named:
        """From what `--towards` was given.

        Raises:
            KdbiasError: no target.
        """
        if text == SPHERE:
            return cls("sphere")
        balanced = text.startswith(_BALANCED)
        what, by = text.removeprefix(_BALANCED) if balanced else text, None
        if "@" in what and (balanced or not os.path.exists(what)):
            what, _, by = what.rpartition("@")
        if not what or by == "":
            raise KdbiasError(
                f"--towards {text!r} is no target; name the folder of a reference's embeddings (REF, or "
                "REF@W.parquet with its own weights), balanced:COLUMN (or balanced:COLUMN@SHARES.csv), or "
                "sphere"
            )
        return cls("balanced" if balanced else "reference", what, by)

    @property
    def placed(self) -> str:
        """What `--towards` names it by from any folder: with the whole paths of its files."""
        what = os.path.abspath(self.what) if self.kind == "reference" else self.what
        return Named(self.kind, what, None if self.by is None else os.path.abspath(self.by)).text

    @property
    def recorded(self) -> str:
        """What a run keeps of it beside the fingerprints of its files."""
        if self.kind != "balanced":
            return self.kind
        return f"{_BALANCED}{self.what}" + (" with given shares" if self.by else "")


def _checked(text: Any) -> str:
    Named.of(str(text))
    return str(text)


@dataclass(frozen=True, kw_only=True)
class Aiming(Settings):
    """Of what measures against a target, or weighs towards it."""

    towards: str | None = option(
        None,
        "what the student will be used on: the embeddings of a sample of it, by the same teacher and without "
        "labels (REF, or REF@W.parquet with weights of its own); balanced:COLUMN, each value of a column of "
        "the data alike (or balanced:COLUMN@SHARES.csv); or sphere",
        metavar="REF|balanced:COLUMN|sphere",
        parse=_checked,
        accepts="str",
    )
    with_column: str | None = option(
        None,
        "compare this column together with the embedding, for what the teacher does not see; a reference "
        "must have it, too",
        flag="--with",
        metavar="COLUMN",
    )
    cluster_by: str | None = option(
        None,
        "the reference's column, such as the person, whose samples of one value depend on each other and say "
        "less than as many others; none: each says as much",
        metavar="COLUMN|none",
        shown="its labels, if they are 30 or more and mostly not those of the data",
    )

    def check(self) -> None:
        """Refuse a column that nothing is compared with."""
        if self.with_column is not None and self.towards in (None, SPHERE):
            raise KdbiasError(
                f"--with {self.with_column} compares a column with that of a target; name one with --towards "
                "REF or balanced:COLUMN"
            )
        if self.cluster_by is not None and (self.named is None or self.named.kind != "reference"):
            raise KdbiasError(
                f"--cluster-by {self.cluster_by} says which samples of a reference depend on each other; "
                "name one with --towards REF"
            )

    @property
    def named(self) -> Named | None:
        """The target; None without one."""
        return None if self.towards is None else Named.of(self.towards)

    def record(self) -> dict[str, Any]:
        """What a run records: the target by its kind; its files are inputs, by fingerprint."""
        named = self.named
        return super().record() | {"towards": named.recorded if named else None}
