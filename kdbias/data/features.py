"""What the Hugging Face ``datasets`` library writes beside columns: their kinds, and names of classes."""

from collections.abc import Iterable, Mapping
from typing import Any

from kdbias.data.settings import Options
from kdbias.errors import KdbiasError


def told(options: Options, files: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What the ``features`` documents say where the options say nothing: ``image_column``, ``label_names``.

    Args:
        files: (file, its document) of each; those that are no mapping say nothing.

    Raises:
        KdbiasError: files number the classes of the label in different ways.
    """
    label = options.label_column or "label"
    known = [(file, features) for file, features in files if isinstance(features, Mapping)]
    found: dict[str, Any] = {}
    images = {name for _, features in known for name in features if _is_image(features[name])}
    if options.image_column is None and options.path_column is None and len(images) == 1:
        found["image_column"] = images.pop()
    named = [(file, names) for file, features in known if (names := _class_names(features.get(label)))]
    if options.label_names is None and named:
        for file, names in named[1:]:
            if names != named[0][1]:
                first = f"{named[0][0]} {_few(named[0][1])}"
                raise KdbiasError(
                    f"{file}: names the classes of {label!r} {_few(names)}, but {first}; the same number "
                    "would mean two of them: read the files one by one"
                )
        found["label_names"] = named[0][1]
    return found


def _is_image(feature: Any) -> bool:
    return isinstance(feature, Mapping) and feature.get("_type") == "Image"


def _class_names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, Mapping) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
