"""How fast the loader of `kdbias embed` decodes, against the bare decoder in one loop over the same images.

    python benchmarks/decode.py --images lfw112/lfw_arc112.parquet --n 4000 --rounds 5

"bare" is Pillow on bytes that lie in memory, to a NumPy array, in one process: what anyone would write. The
loader also reads the Parquet file, checks each image (size, truncation, orientation), prepares it and hands
over batches. Contestants run in turn within each round, so that other jobs on the machine meet all of them;
the table has medians over rounds. Wall time says what a user waits, with the workers' start in it; processor
time (of workers, too) what it costs, and is what to trust on a shared machine.
"""

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def processor_seconds() -> float:
    """Of this process and of the children that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def bare(encoded: list[bytes]) -> int:
    for data in encoded:
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image.convert("RGB"))
    return len(encoded)


def loader(images: Path, batch_size: int, workers: int) -> Callable[[], int]:
    from kdbias.data.opening import open_data
    from kdbias.loading import ImageLoader
    from kdbias.teachers.preprocessing import Preprocessing

    source = open_data(images)
    width, height = Image.open(io.BytesIO(source.read(0))).size
    prepare = Preprocessing(size=(height, width))  # as large as they are: nothing is resized
    rows = np.split(np.arange(source.n), range(batch_size, source.n, batch_size))

    def run() -> int:
        return sum(len(batch.rows) for batch in ImageLoader(source, [prepare], workers).batches(rows))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(os.environ.get("KDBIAS_DATA", "."))
    parser.add_argument("--images", type=Path, default=here / "lfw112" / "lfw_arc112.parquet")
    parser.add_argument("--column", default="image", help="of the encoded images")
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, action="append", help="repeatable [0, 1, 2]")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoded = pq.read_table(options.images, columns=[options.column]).column(0).slice(0, options.n)
    encoded = encoded.to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        compare(encoded, Path(folder) / "images.parquet", options)


def compare(encoded: list[bytes], copy: Path, options: argparse.Namespace) -> None:
    """Time all contestants on the images and print the table; `copy` is where the loader gets them from."""
    ids = [f"{i:08}" for i in range(len(encoded))]
    pq.write_table(pa.table({"sample_id": ids, "image": encoded}), copy, row_group_size=1000)
    runs: dict[str, Callable[[], int]] = {"bare decoder, one loop": lambda: bare(encoded)}
    for workers in options.workers or [0, 1, 2]:
        runs[f"loader, {workers} workers"] = loader(copy, options.batch_size, workers)
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cost: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            began, used = time.perf_counter(), processor_seconds()
            count = run()
            assert count == len(encoded), f"{name} gave {count} of {len(encoded)} images"
            wall[name].append(time.perf_counter() - began)
            cost[name].append(processor_seconds() - used)
    kilobytes = sum(map(len, encoded)) / len(encoded) / 1000
    print(f"{len(encoded):,} images of {kilobytes:.1f} kB, {options.rounds} rounds, {os.cpu_count()} cores")
    print(f"{'':24}{'images/s':>10}{'x bare':>8}{'images/CPU s':>14}{'x bare':>8}")
    first = next(iter(runs))
    for name in runs:
        line = f"{name:24}"
        for times, width in ((wall, 10), (cost, 14)):
            ratios = [a / b for a, b in zip(times[first], times[name], strict=True)]
            rate = len(encoded) / statistics.median(times[name])
            line += f"{rate:>{width},.0f}{statistics.median(ratios):>8.2f}"
        print(line)


if __name__ == "__main__":
    main()
