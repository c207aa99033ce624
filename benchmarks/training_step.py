"""What a training step of kdbias costs above a bare PyTorch loop on the same network and data.

    python benchmarks/training_step.py --rounds 3
    python benchmarks/training_step.py --wait --images lfw112/lfw_arc112.parquet

The bare loop has the images as one uint8 tensor and the targets as another, a torch.randperm, SGD, gradient
clipping and the l2e loss, and nothing else. A step's cost is the slope between a short and a long run (CPU
seconds of one thread), so that opening data and saving networks cancel out. `--wait` trains on encoded images
streamed by workers and prints the share of wall-clock time that steps waited for data.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from kdbias import train
from kdbias.networks import build_network
from kdbias.progress import quiet
from kdbias.tables.embedding_table import write_embedding_table

DIM = 64
CASES = {  # name: (network, side, channels, batch, images)
    "convnet 28x28 grey, batch 128": ("convnet", 28, 1, 128, 1280),
    "mobilefacenet 56x56, batch 64": ("mobilefacenet", 56, 3, 64, 128),
}


def make_data(folder: Path, side: int, channels: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, side, side, channels)).astype(np.uint8)
    targets = rng.normal(size=(n, DIM)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    ids = pa.array([f"s{i:06d}" for i in range(n)])
    pq.write_table(pa.table({"sample_id": ids, "image": [png(i) for i in images]}), folder / "data.parquet")
    write_embedding_table(folder / "emb", ids, targets, dtype="float32")
    return images, targets


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def bare(images: torch.Tensor, targets: torch.Tensor, name: str, batch: int, epochs: int) -> float:
    torch.manual_seed(0)
    size, channels = tuple(images.shape[1:3]), images.shape[3]
    network = build_network(name, dim=DIM, channels=channels, image_size=size)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    started = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            x = images[rows].permute(0, 3, 1, 2).float().sub_(127.5).mul_(1 / 127.5)
            output = network(x.contiguous(memory_format=torch.channels_last))
            loss = (nn.functional.normalize(output) - targets[rows]).square().sum(1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
    return time.process_time() - started


def ours(folder: Path, name: str, batch: int, epochs: int, color: str) -> float:
    started = time.process_time()
    with tempfile.TemporaryDirectory() as out, quiet():
        train(
            folder / "data.parquet",
            Path(out) / "run",
            embeddings=folder / "emb",
            student=name,
            batch_size=batch,
            epochs=epochs,
            color=color,
            lr=0.01,
            device="cpu",
            threads=1,
        )
    return time.process_time() - started


def overhead(rounds: int) -> None:
    print(f"{'':32} bare (ms/step)   kdbias (ms/step)   overhead")
    for case, (name, side, channels, batch, n) in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            images, targets = (torch.from_numpy(a) for a in make_data(folder, side, channels, n))
            color = "L" if channels == 1 else "RGB"
            short, long = (2, 10) if name == "convnet" else (1, 4)
            steps = (long - short) * (n // batch)
            costs: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(rounds):
                for who, run in (
                    ("bare", lambda e: bare(images, targets, name, batch, e)),  # noqa: B023
                    ("ours", lambda e: ours(folder, name, batch, e, color)),  # noqa: B023
                ):
                    begin = run(short)
                    costs[who].append((run(long) - begin) / steps * 1e3)
            a, b = (statistics.median(costs[who]) for who in ("bare", "ours"))
            print(f"{case:32} {a:14.2f} {b:18.2f} {b / a - 1:10.1%}", flush=True)


def wait(images: str, student: str, workers: int) -> None:
    path = Path(images)
    if not path.exists():
        path = Path(os.environ.get("KDBIAS_DATA", ".")) / images
    with tempfile.TemporaryDirectory() as place:
        table = pq.read_table(path, columns=["name", "image"]).slice(0, 256)
        pq.write_table(table.rename_columns(["sample_id", "image"]), f"{place}/data.parquet")
        rng = np.random.default_rng(0)
        write_embedding_table(
            f"{place}/emb", table.column("name").combine_chunks(), rng.normal(size=(256, DIM))
        )
        options = {"student": student, "epochs": 2, "batch_size": 32, "cache": "0", "workers": workers}
        train(f"{place}/data.parquet", f"{place}/run", embeddings=f"{place}/emb", device="cpu", **options)
        print(Path(f"{place}/run/metrics.csv").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--images", default="lfw112/lfw_arc112.parquet")
    parser.add_argument("--student", default="mobilefacenet")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.wait:
        wait(options.images, options.student, options.workers)
    else:
        torch.set_num_threads(1)
        overhead(options.rounds)
