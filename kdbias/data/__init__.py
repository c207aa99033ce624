"""Where samples come from. A new kind of data is one file, and its entry in `KINDS`.

`opening.open_data` finds the kind of a data set and opens it. Nothing here imports anything heavy.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kdbias.data.settings import COLUMNS


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        module: in this folder; its function ``open_KIND(data, options)`` gives the `Source`.
        form: what to name, in words for people; empty where a description must say more.
        suffixes: of files that are of this kind.
        uses: the options that it makes use of, beside groups and label_names; others are refused. Kinds that
            hold their images seek none below a root, which would be overlooked.
    """

    module: str
    form: str = ""
    suffixes: Sequence[str] = ()
    uses: Sequence[str] = ()


_OF_TARS = ("id_column", "label_column", "image_column")

KINDS = {
    "folder": Kind("folder", "an image folder (class = sub-folder)", uses=("pattern", "root")),
    "table": Kind(
        "table",
        "a .csv, .tsv or .parquet manifest (image paths or bytes)",
        (".csv", ".tsv", ".parquet"),
        (*COLUMNS, "root"),
    ),
    "arrays": Kind("arrays", suffixes=(".npz",), uses=("arrays",)),
    "lists": Kind("lists", uses=("lists", "pattern", "root")),
    "bin": Kind("verification_bin", "a verification .bin or a folder of them", (".bin",)),
    "recordio": Kind("recordio", "MXNet RecordIO (.rec or its folder)", (".rec",)),
    "webdataset": Kind("webdataset", "WebDataset tars", (".tar",), _OF_TARS),
    "huggingface": Kind("huggingface", "a saved Hugging Face set", uses=(*COLUMNS, "root")),
    "torchvision": Kind("torchvision_sets", "torchvision:NAME", uses=("root",)),
}
"""Kinds of data by the names that ``kind`` in a description takes."""

TORCHVISION = "torchvision:"
"""How the name of a data set of torchvision begins; all others are paths."""

OF_SUFFIX = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}
"""Suffix of a file -> its kind."""


def forms() -> str:
    """What `open_data` opens, in words for people."""
    return ", ".join([kind.form for kind in KINDS.values() if kind.form]) + ", or a .toml description"
