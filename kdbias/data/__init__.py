"""Where samples come from. A new kind of data is one file, and its entry in `KINDS`.

`opening.open_data` finds the kind of a data set and opens it. Nothing here imports anything heavy.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kdbias.data.settings import COLUMNS


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        opens: "module:function(data, options) -> Source" in this folder.
        form: what to name, in words for people; empty where a description must say more.
        suffixes: of files that are of this kind.
        uses: the options that it makes use of, beside groups and label_names; others are refused.
        has_paths: images are sought below a root; other kinds hold them, so that one would be overlooked.
    """

    opens: str
    form: str = ""
    suffixes: Sequence[str] = ()
    uses: Sequence[str] = ()
    has_paths: bool = False


KINDS = {
    "folder": Kind(
        "folder:open_folder", "an image folder (class = sub-folder)", uses=("pattern",), has_paths=True
    ),
    "table": Kind(
        "table:open_table",
        "a .csv, .tsv or .parquet manifest (image paths or bytes)",
        (".csv", ".tsv", ".parquet"),
        COLUMNS,
        has_paths=True,
    ),
    "arrays": Kind("arrays:open_arrays", "", (".npz",), ("arrays",)),
    "lists": Kind("lists:open_lists", "", (), ("lists", "pattern"), has_paths=True),
    "bin": Kind("verification_bin:open_bin", "a verification .bin or a folder of them", (".bin",)),
    "recordio": Kind("recordio:open_recordio", "MXNet RecordIO (.rec or its folder)", (".rec",)),
    "webdataset": Kind(
        "webdataset:open_webdataset",
        "WebDataset tars",
        (".tar",),
        ("id_column", "label_column", "image_column"),
    ),
    "huggingface": Kind(
        "huggingface:open_huggingface", "a saved Hugging Face set", uses=COLUMNS, has_paths=True
    ),
    "torchvision": Kind("torchvision_sets:open_torchvision", "torchvision:NAME", has_paths=True),
}
"""Kinds of data by the names that ``kind`` in a description takes."""

TORCHVISION = "torchvision:"
"""How the name of a data set of torchvision begins; all others are paths."""

OF_SUFFIX = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}
"""Suffix of a file -> its kind."""


def forms() -> str:
    """What `open_data` opens, in words for people."""
    forms = [kind.form for kind in KINDS.values() if kind.form]
    return f"{', '.join(forms)}, or a .toml description"
