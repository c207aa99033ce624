"""What `kdbias embed` costs on top of the bare work: forward passes, decoding, writing.

    python benchmarks/embed_engine.py --n 1500 --threads 1 --workers 1
    python benchmarks/embed_engine.py --teacher kdbias:iresnet50@random --device cuda --n 100000

The pictures are synthetic JPEGs of 112x112. Each round measures the bare loop and the engine one after the
other, so that other jobs on the machine meet both; the table has medians over rounds. "bare forward" is the
loop anyone would write around the same network, on batches that lie prepared in memory; "engine" is a whole
`embed()` with reading, decoding, checking (32 images once more, one by one) and writing. Their ratio is also
the fraction of time the device is kept busy.

On a shared machine --cpu-time compares processor seconds of the computing process: all of `embed()` but
the opening of the teacher, with the forward passes inside it. That is what the engine adds to a core that
computes, while decode workers have cores of their own.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pictures(n: int, path: Path) -> None:
    """n JPEGs of smooth noise, 112x112, about 4 kB each, in one Parquet file."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(min(n, 2000)):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((112, 112), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        encoded.append(stream.getvalue())
    images = pa.array([encoded[i % len(encoded)] for i in range(n)])
    ids = pa.array([f"{i:08d}" for i in range(n)])
    pq.write_table(pa.table({"sample_id": ids, "image": images}), path, row_group_size=1000)


def bare_forward(teacher, batches: list[np.ndarray], clock: Callable[[], float]) -> float:
    """Seconds of the plain loop; the result comes back to the host in the end."""
    import torch

    network, prepare = teacher._network, teacher.preprocessing
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(teacher.precision, torch.float32)
    autocast = torch.autocast(teacher.device.split(":")[0], dtype=dtype, enabled=teacher.precision != "fp32")
    begun = clock()
    outputs = []
    with torch.inference_mode(), autocast:
        for batch in batches:
            images = torch.from_numpy(batch).to(teacher.device)
            outputs.append(network(prepare.normalise(images, channels_last=teacher.channels_last)).float())
        torch.cat(outputs).cpu()
    return clock() - begun


def spent_on(work: Callable[[], object]) -> float:
    """Processor seconds of this process, its children apart."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


@contextlib.contextmanager
def forward_time() -> Iterator[list[float]]:
    """Processor seconds of forward passes on whole batches inside the block, in a list of one."""
    from kdbias.teachers.torch_module import TorchTeacher

    run, total = TorchTeacher._run, [0.0]

    def timed(teacher, images, mirrored):
        begun = time.process_time()
        output = run(teacher, images, mirrored)
        total[0] += (time.process_time() - begun) * (len(images) > 1)
        return output

    TorchTeacher._run = timed
    try:
        yield total
    finally:
        TorchTeacher._run = run


def bare_decode(encoded: list[bytes], prepare) -> float:
    from kdbias.data.decode import decode_image

    begun = time.perf_counter()
    for data in encoded:
        prepare.apply(decode_image(data))
    return time.perf_counter() - begun


def engine_decode(source, prepare, batch_size: int, workers: int) -> float:
    """Seconds to get all images prepared into this process, without the workers' start."""
    from kdbias.loading import ImageLoader

    rows = np.split(np.arange(source.n), range(batch_size, source.n, batch_size))
    batches = ImageLoader(source, [prepare], workers).batches(rows)
    first = len(next(batches).rows)
    begun = time.perf_counter()
    count = sum(len(batch.rows) for batch in batches)
    return (time.perf_counter() - begun) * (count + first) / max(count, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", default="torchvision:resnet18@random")
    parser.add_argument("--preprocessing", default="arcface_112")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--n", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="see above")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    from kdbias import progress
    from kdbias.data.decode import decode_image
    from kdbias.data.opening import open_data
    from kdbias.device import resolve_device
    from kdbias.embedding.stage import embed
    from kdbias.teachers import open_teacher

    with tempfile.TemporaryDirectory() as folder, progress.quiet():
        data = Path(folder) / "pictures.parquet"
        pictures(options.n, data)
        teacher = open_teacher(
            options.teacher,
            device=resolve_device(options.device),
            precision=options.precision,
            preprocessing=options.preprocessing,
        )
        encoded = pq.read_table(data, columns=["image"]).column(0).to_pylist()
        prepare = teacher.preprocessing
        prepared = np.stack([prepare.apply(decode_image(e)) for e in encoded[:2000]])
        starts = range(0, options.n, options.batch_size)
        batches = [
            prepared[np.arange(s, min(s + options.batch_size, options.n)) % len(prepared)] for s in starts
        ]
        source = open_data(data)
        seconds: dict[str, list[float]] = {
            name: [] for name in ("forward", "engine", "write", "bare", "loader")
        }
        clock = time.process_time if options.cpu_time else time.perf_counter
        arguments = {
            "teacher": options.teacher,
            "preprocessing": options.preprocessing,
            "device": options.device,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "workers": options.workers,
        }
        for attempt in range(options.rounds):
            seconds["forward"].append(bare_forward(teacher, batches, clock))
            opening = spent_on(lambda: embed(data, folder, plan=True, **arguments))
            out = Path(folder) / f"out{attempt}"
            with forward_time() as forward:
                whole = spent_on(lambda out=out: embed(data, out, **arguments))
            record = json.loads((out / "run.json").read_text())["timings"]
            if options.cpu_time:
                seconds["forward"][-1] = forward[0]
            seconds["engine"].append(whole - opening if options.cpu_time else record["elapsed"])
            seconds["write"].append(record["write"])
            seconds["bare"].append(bare_decode(encoded[:2000], prepare) * options.n / min(options.n, 2000))
            seconds["loader"].append(engine_decode(source, prepare, options.batch_size, options.workers))
        ratio = statistics.median(a / b for a, b in zip(seconds["engine"], seconds["forward"], strict=True))
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        size = sum(p.stat().st_size for p in (Path(folder) / "out0").glob("part-*.parquet"))
        print(
            f"{options.teacher} on {teacher.device}, {options.precision}, {options.threads} threads, "
            f"batch {options.batch_size}, {options.workers} workers, n = {options.n:,}, "
            f"{options.rounds} rounds"
        )
        rows = [
            ("bare forward loop", middle["forward"], ""),
            ("engine: embed()", middle["engine"], f"{100 * (ratio - 1):+.1f} % over the bare loop"),
            ("bare decode, one process", middle["bare"], ""),
            (
                f"decode through {options.workers} workers",
                middle["loader"],
                f"{middle['bare'] / middle['loader']:.2f}x the bare decoder",
            ),
        ]
        for name, spent, note in rows:
            print(f"{name:28s} {options.n / spent:12,.1f} images/s  {note}")
        print(f"{'write':28s} {size / max(middle['write'], 1e-9) / 1e6:12,.1f} MB/s")


if __name__ == "__main__":
    main()
