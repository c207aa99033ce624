"""Where a table comes from, written into the table itself.

One JSON document stands in the Parquet footer twice: under ``kdbias``, and inside ``PANDAS_ATTRS``, which is
where pandas >= 2.1 keeps ``DataFrame.attrs``. So ``pd.read_parquet(f).attrs["kdbias"]`` shows it, and it
survives filtering and rewriting in pandas.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from kdbias.scratch import recorded
from kdbias.tables.documents import parse_json, require_shape
from kdbias.version import __version__

_KEY = b"kdbias"
_PANDAS_KEY = b"PANDAS_ATTRS"
MADE_FROM = {
    "config?": ({str: object}, None),
    "inputs?": ({str: (str, None)}, None),
    "seconds?": float,
}
"""What a document, and the record of a run, hold where they hold it (:mod:`kdbias.tables.documents`)."""
_SHAPE = MADE_FROM | {
    "stage?": str,
    "counts?": ({str: object}, None),
    "content?": str,
    "ids?": str,
    "parts?": int,
    "embeddings?": (str, None),
    "density?": (str, None),
    "t_chosen?": (float, None),
    "numbers?": ({str: (float, None)}, None),
}


def now() -> str:
    """The time to the second, as documents hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def document(
    stage: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    counts: dict[str, Any],
    seconds: float,
    **more: Any,
) -> dict[str, Any]:
    """The provenance of one output.

    Args:
        stage: the command that wrote it.
        config: every option that changes the content, JSON values only.
        inputs: fingerprint of each input by its role.
        counts: rows, failures and the like.
        seconds: wall-clock time the stage took.
        more: further facts (results, warnings), JSON values only.
    """
    return {
        "version": __version__,
        "stage": stage,
        "created": now(),
        "config": config,
        "inputs": inputs,
        "counts": counts,
        "seconds": round(seconds, 3),
        **more,
    }


def options_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a document, or the record of a run, says something was made with; {} for none."""
    return document.get("config") or {}


def inputs_in(document: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of each input that it names, by role; nothing where it names none."""
    return document.get("inputs") or {}


def paths_in(document: Mapping[str, Any]) -> dict[str, str]:
    """Where what a run read lay, by role."""
    return document.get("paths") or {}


def attach(table: pa.Table, doc: dict[str, Any]) -> pa.Table:
    """The table with the document in its schema metadata (other metadata is kept)."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata(doc)})


def metadata(doc: dict[str, Any]) -> dict[bytes, bytes]:
    """The two footer entries that carry a document."""
    doc = recorded(doc)
    text = json.dumps(doc, allow_nan=False)
    return {_KEY: text.encode(), _PANDAS_KEY: json.dumps({"kdbias": doc}, allow_nan=False).encode()}


def from_schema(schema: pa.Schema, where: object) -> dict[str, Any] | None:
    """The document in a schema, or None; after a rewrite by pandas only ``PANDAS_ATTRS`` holds it.

    Raises:
        KdbiasError: it is none; ``where`` it stands is named.
    """
    entries = schema.metadata or {}
    if _KEY in entries:
        found = parse_json(entries[_KEY], f"{where}: its entry kdbias")
    elif _PANDAS_KEY in entries:
        attributes = parse_json(entries[_PANDAS_KEY], f"{where}: its entry PANDAS_ATTRS", strict=False)
        found = attributes.get("kdbias") if isinstance(attributes, dict) else None
    else:
        return None
    require_shape(found, (_SHAPE, None), f"{where}: its provenance")
    return found
