"""Small folders as an earlier state of the code left them, finished and broken off.

``python -m tests.pinned.old FOLDER`` makes them in FOLDER, whose path some of them keep, and copies them to
``recorded/old``. That is for a change of format that no reader can
bridge, on purpose: else the folders stay as they are, as those of users do.
"""

import os
import shutil
import sys
from pathlib import Path

from tests.pinned.kills import forked, run
from tests.pinned.world import N, pictures, png

FOLDER = Path(__file__).parent / "recorded" / "old"
ROWS = 24
FINISHED = {
    "emb": "embed data.parquet -o emb --teacher precomputed:vectors.npy --same-order --rows-per-part 8",
    "density": "uniformity emb -o density --k 5 --t 2 --threads 1 --rectification none",
    "w.parquet": "weights density -o w.parquet --method inverse-density --t 2",
    "score": "evaluate emb -o score --bootstrap 20 --cluster-by label --k 3",
}
BROKEN = {"emb": 4, "density": 5}
"""After how many renames each was broken off; the folder is called NAME-broken."""


def broken(name: str) -> str:
    return FINISHED[name].replace(f"-o {name}", f"-o {name}-broken")


def make(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    images = pictures()[N - ROWS :]
    ids, labels = [f"s{i:02d}" for i in range(ROWS)], [f"c{i % 3}" for i in range(ROWS)]
    frame = pd.DataFrame({"sample_id": ids, "label": labels, "image": [png(i) for i in images]})
    frame.to_parquet("data.parquet")
    np.save("vectors.npy", images.reshape(ROWS, -1)[:, ::18].astype(np.float32) - 90)
    for command in FINISHED.values():
        assert run(command.split()) == 0, command
    for name, renames in BROKEN.items():
        forked(broken(name).split(), renames)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    make(folder)
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(folder, FOLDER, ignore=shutil.ignore_patterns("*.png", ".lock"))


if __name__ == "__main__":
    main()
