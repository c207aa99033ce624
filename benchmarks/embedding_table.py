"""Writing and reading an embedding table, against other ways to keep (n, d) vectors in one file.

    python benchmarks/embedding_table.py --n 200000 --d 512 --rounds 3

Every contestant is written from, and read into, one (n, d) float32 array, each in a process of its own, in
turn. GB/s are those of the float32 payload (4 n d bytes, however few are stored) by processor seconds, that
is a core. "peak" is the highest resident memory of the reading process over what it had before, in payloads:
1 is the result alone. kdbias also normalises and fingerprints when it writes and renormalises when it reads.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Writer = Callable[[Path, np.ndarray], object]
Reader = Callable[[Path], np.ndarray]


def write_kdbias(path: Path, x: np.ndarray, dtype: str = "float16") -> None:
    from kdbias.tables.embedding_table import write_embedding_table

    write_embedding_table(path, pa.array([f"{i:09}" for i in range(len(x))]), x, dtype=dtype)


def read_kdbias(path: Path) -> np.ndarray:
    from kdbias.tables.embedding_table import EmbeddingTable

    return EmbeddingTable.open(path).vectors()


def read_unchecked(path: Path) -> np.ndarray:
    """As `read_kdbias`, without comparing what is read with the seal: the difference is what that costs."""
    from kdbias.tables.seal import Seal

    Seal.require = lambda *_: None  # type: ignore[method-assign]
    return read_kdbias(path)


def write_list(path: Path, x: np.ndarray, dtype: str) -> None:
    values = pa.array(x.astype(dtype, copy=False).reshape(-1))
    pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(values, x.shape[1])}), path)


def read_list(path: Path) -> np.ndarray:
    column = pq.read_table(path).column("embedding").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1).astype(np.float32, copy=False)


def write_binary(path: Path, x: np.ndarray) -> None:
    half = np.ascontiguousarray(x, dtype=np.float16)
    kind = pa.binary(2 * x.shape[1])
    values = pa.FixedSizeBinaryArray.from_buffers(kind, len(x), [None, pa.py_buffer(half)])
    pq.write_table(pa.table({"embedding": values}), path, use_dictionary=False, compression="NONE")


def read_binary(path: Path) -> np.ndarray:
    column = pq.read_table(path).column("embedding").combine_chunks()
    flat = np.frombuffer(column.buffers()[1], np.float16)
    return flat.reshape(len(column), -1).astype(np.float32)


CONTESTANTS: dict[str, tuple[Writer, Reader]] = {
    "kdbias, float16": (write_kdbias, read_kdbias),
    "kdbias, float16, unchecked": (write_kdbias, read_unchecked),
    "kdbias, float32": (lambda path, x: write_kdbias(path, x, "float32"), read_kdbias),
    "pyarrow list, float16": (lambda path, x: write_list(path, x, "float16"), read_list),
    "pyarrow list, float32": (lambda path, x: write_list(path, x, "float32"), read_list),
    "pyarrow binary, float16": (write_binary, read_binary),
    "numpy .npy, float32": (lambda path, x: np.save(path.open("wb"), x), lambda path: np.load(path)),
    "numpy .npy, float16": (
        lambda path, x: np.save(path.open("wb"), x.astype(np.float16)),
        lambda path: np.load(path).astype(np.float32),
    ),
}


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def one(name: str, what: str, path: Path, n: int, d: int) -> None:
    """Write or read as one contestant and print what it took, as JSON."""
    writer, reader = CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as folder:  # imports and the start of pools are not what is measured
        writer(Path(folder) / "few", np.ones((64, d), np.float32))
        reader(Path(folder) / "few")
    if what == "write":
        x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    before, used, began = resident(), time.process_time(), time.perf_counter()
    if what == "write":
        writer(path, x)
    else:
        read = reader(path)
        assert read.shape == (n, d)
        assert read.dtype == np.float32
    spent, wall = time.process_time() - used, time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"cpu": spent, "wall": wall, "peak": peak}))


def measure(name: str, what: str, path: Path, n: int, d: int) -> dict[str, float]:
    call = [sys.executable, __file__, "--one", name, "--what", what, "--path", str(path)]
    call += ["--n", str(n), "--d", str(d)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    for hidden in ("--one", "--what"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    n, d = options.n, options.d
    if options.one:
        one(options.one, options.what, options.path, n, d)
        return
    payload = 4 * n * d
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    sizes: dict[str, int] = {}
    for _ in range(options.rounds):
        for name in CONTESTANTS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "vectors"
                for what in ("write", "read"):
                    found.setdefault((name, what), []).append(measure(name, what, path, n, d))
                files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
                sizes[name] = sum(file.stat().st_size for file in files)
    print(f"{n:,} x {d}, {payload / 1e9:.2f} GB of float32; medians of {options.rounds} rounds")
    head = ("write s", "GB/CPU s", "read s", "GB/CPU s", "peak", "on disk")
    print(f"{'':26}" + "".join(f"{title:>10}" for title in head))
    for name in CONTESTANTS:
        row = []
        for what in ("write", "read"):
            runs = found[name, what]
            wall, cpu = (statistics.median(run[key] for run in runs) for key in ("wall", "cpu"))
            row += [f"{wall:.2f}", f"{payload / cpu / 1e9:.2f}"]
        peak = statistics.median(run["peak"] for run in found[name, "read"])
        row += [f"{peak / payload:.2f}", f"{sizes[name] / payload:.2f}"]
        print(f"{name:26}" + "".join(f"{cell:>10}" for cell in row))


if __name__ == "__main__":
    main()
