"""An output of every stage, made by the commands themselves."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner, Result
from PIL import Image

from kdbias.cli import main

N, DIM = 24, 6


def run(command: str, **places: object) -> Result:
    words = command.format(**places).split()
    return CliRunner().invoke(main, [*words, "-q"])


def make_outputs(root: Path) -> None:
    """Data, and an output of every stage, in a folder."""
    ids = [f"s{i:02d}" for i in range(N)]
    frame = pd.DataFrame({"sample_id": ids, "label": [f"c{i % 3}" for i in range(N)]})
    frame["race"] = [f"r{i % 2}" for i in range(N)]
    frame["image"] = [_png(10 * i) for i in range(N)]
    frame.to_parquet(root / "data.parquet")
    frame[:10].assign(sample_id=[f"r{i}" for i in range(10)]).to_parquet(root / "ref.parquet")
    np.save(root / "ref.npy", np.random.default_rng(1).normal(size=(10, DIM)).astype(np.float32))
    np.save(root / "vectors.npy", np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32))
    for command in (
        "embed {data} -o {root}/emb --teacher precomputed:{root}/vectors.npy --same-order --rows-per-part 12",
        "embed {root}/ref.parquet -o {root}/ref --teacher precomputed:{root}/ref.npy --same-order",
        "uniformity {root}/emb -o {root}/density --k 5 --t 2,5 --keep-neighbors --towards {root}/ref",
        "weights {root}/density -o {root}/w.parquet",
        "weights {root}/density -o {root}/frontier --frontier",
        "train {data} -o {root}/run --embeddings {root}/emb --workers 0 --epochs 1",
        "evaluate {root}/emb -o {root}/knn --bootstrap 100",
        "evaluate {root}/emb -o {root}/knn2 --bootstrap 100 --seed 1",
    ):
        result = run(command, root=root, data=root / "data.parquet")
        assert result.exit_code == 0, result.output


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
