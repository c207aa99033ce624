"""What manifests and runs go by on the page (unlike things never share a name), and where they lie now.

Commands record relative paths as they were given, and folders move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbias.training.settings import TrainingSettings

_PLAIN = ("student", "loss", "epochs", "data", "embeddings", "weights")  # options and inputs of a training
_LEVELS = 4  # folders above the record that are tried


def told_apart(places: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """The stem of each file, with as many of its folders as tell it from the others and from ``taken``."""
    parts = [place.resolve().with_suffix("").parts for place in places]
    names = []
    for i, own in enumerate(parts):
        others = parts[:i] + parts[i + 1 :]
        depth = 1
        while depth < len(own) and (
            "/".join(own[-depth:]) in taken or any(other[-depth:] == own[-depth:] for other in others)
        ):
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def recipes(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A name for the recipe of each run, given its scheme and its record; runs that share it are seeds.

    It is the scheme, with as many options and inputs as tell its recipes apart.
    """
    facts = [_facts(record) for _, record in runs]
    alike: dict[str, list[dict[str, str]]] = {}
    for (scheme, _), own in zip(runs, facts, strict=True):
        alike.setdefault(scheme, []).append(own)
    keys = {scheme: _telling(of_scheme) for scheme, of_scheme in alike.items()}
    names = []
    for (scheme, _), own in zip(runs, facts, strict=True):
        told = ", ".join(own.get(key, f"no {key}") for key in keys[scheme])
        names.append(f"{scheme} ({told})" if told else scheme)
    return names


def _telling(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Few keys by whose values all recipes that differ can be told apart, the plainest ones first."""
    keys = sorted(set().union(*facts), key=lambda key: (key not in _PLAIN, key))
    chosen: list[str] = []

    def told(by: Sequence[str]) -> int:
        return len({tuple(own.get(key) for key in by) for own in facts})

    for key in keys:
        if told(chosen) < told(keys) and told([*chosen, key]) > told(chosen):
            chosen.append(key)
    return chosen


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What makes a training but its seed, each as the text that tells it from another."""
    paths = record.get("paths") or {}
    facts = {
        key: f"{key} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (TrainingSettings.usual() | (record.get("config") or {})).items()
        if key != "seed"
    }
    for role, fingerprint in (record.get("inputs") or {}).items():
        named = f"{Path(paths[role]).name} " if isinstance(paths.get(role), str) else ""
        facts[role] = f"{role} {named}{fingerprint[:6]}"
    return facts


def bases(record: str | os.PathLike[str]) -> Iterator[Path]:
    """Folders that a relative path may start from: the current one, the record's, and those above that."""
    yield Path()
    folder = Path(record).resolve()
    for _ in range(_LEVELS):
        yield folder
        folder = folder.parent


def candidates(
    recorded: str | os.PathLike[str], record: str | os.PathLike[str], known: bool = False
) -> Iterator[Path]:
    """Places that a path recorded in the folder or file ``record`` may mean, the likeliest first.

    ``known``: a fingerprint tells whether it is the right one, so that the ends of the path may be tried too,
    for a folder that was renamed or brought from another machine.
    """
    path = Path(recorded)
    if path.is_absolute():
        yield path
    else:
        for base in bases(record):
            yield base / path
    if known:
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        for start in range(not path.is_absolute(), len(parts)):
            for base in list(bases(record))[1:]:
                yield base.joinpath(*parts[start:])
