"""Images a second of `kdbias train` on a CUDA device, against the same network on synthetic data.

    python benchmarks/training_throughput.py --student mobilefacenet --batch-size 512 --precision bf16
    python benchmarks/training_throughput.py --student iresnet50 --batch-size 256

The ceiling is a loop anyone would write: one batch of random pixels that lies on the device, forward and
backward in autocast, gradient clipping, SGD. kdbias trains on 112x112 JPEGs, once with the decoded images
kept in memory (`cached`) and once decoded anew every epoch by workers (`decoded`); the rate is the median of
the epochs after the first, which decodes and warms up. "waited" is the share of time a step waited for data.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from embed_engine import pictures
from torch import nn

from kdbias import train
from kdbias.networks import build_network
from kdbias.progress import quiet
from kdbias.tables.embedding_table import write_embedding_table

DIM = 512
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def ceiling(options: argparse.Namespace, deterministic: bool) -> float:
    """Images a second of a bare loop."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.manual_seed(0)
    network = build_network(options.student, dim=DIM, channels=3, image_size=(112, 112))
    network = network.cuda().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pixels = torch.randint(0, 256, (options.batch_size, 112, 112, 3), dtype=torch.uint8, device="cuda")
    targets = nn.functional.normalize(torch.randn(options.batch_size, DIM, device="cuda"))
    dtype = AUTOCAST.get(options.precision)
    warm_up, steps = 10, 40
    for step in range(warm_up + steps):
        if step == warm_up:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        x = pixels.permute(0, 3, 1, 2).float().sub_(127.5).mul_(1 / 127.5)
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            output = network(x.contiguous(memory_format=torch.channels_last))
        loss = (nn.functional.normalize(output.float()) - targets).square().sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    torch.cuda.synchronize()
    return steps * options.batch_size / (time.perf_counter() - begun)


def ours(
    folder: Path, options: argparse.Namespace, deterministic: bool, cache: str, epochs: int
) -> tuple[float, float]:
    """(images a second, share of time waited for data) of `kdbias train`."""
    with tempfile.TemporaryDirectory() as out, quiet():
        train(
            folder / "data.parquet",
            Path(out) / "run",
            embeddings=folder / "emb",
            student=options.student,
            batch_size=options.batch_size,
            precision=options.precision,
            epochs=epochs,
            lr=0.01,
            workers=options.workers,
            cache=cache,
            deterministic=deterministic,
            device="cuda",
        )
        rows = pd.read_csv(Path(out) / "run" / "metrics.csv").iloc[1:]
        return statistics.median(rows["images_per_second"]), statistics.median(rows["data_wait"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="mobilefacenet")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--n", type=int, default=16_384)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {options.student}, {options.precision}, "
        f"batch {options.batch_size}, {options.n:,} images of 112x112, {options.workers} workers"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pictures(options.n, folder / "data.parquet")
        vectors = np.random.default_rng(0).standard_normal((options.n, DIM), dtype=np.float32)
        write_embedding_table(folder / "emb", pa.array([f"{i:08d}" for i in range(options.n)]), vectors)
        for deterministic in (True, False):
            rates: dict[str, list[float]] = {"ceiling": [], "cached": [], "decoded": []}
            waits: dict[str, list[float]] = {"cached": [], "decoded": []}
            for _ in range(options.rounds):
                rates["ceiling"].append(ceiling(options, deterministic))
                for case, cache in (("cached", "8GiB"), ("decoded", "0")):
                    rate, wait = ours(folder, options, deterministic, cache, options.epochs)
                    rates[case].append(rate)
                    waits[case].append(wait)
            top = statistics.median(rates["ceiling"])
            print("deterministic" if deterministic else "fastest kernels")
            print(f"  {'synthetic ceiling':20}{top:10,.0f} images/s")
            for case, waited in waits.items():
                rate = statistics.median(rates[case])
                print(
                    f"  {'kdbias, ' + case:20}{rate:10,.0f} images/s {rate / top:6.2f} of the ceiling, "
                    f"waited {statistics.median(waited):.1%}"
                )


if __name__ == "__main__":
    main()
