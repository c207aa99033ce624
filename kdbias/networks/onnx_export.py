"""Export a saved network to ONNX, and believe the file only after it has computed the same embeddings."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from kdbias.errors import KdbiasError
from kdbias.networks.saved import load_network
from kdbias.optional import require
from kdbias.tables.files import atomic_path

# Worst cosine distance between the embeddings of both, float32; a wrong layer is orders of magnitude off.
_TOLERANCE = 1e-4


def export_onnx(source: str | Path, target: str | Path, check_batches: tuple[int, ...] = (1, 3)) -> float:
    """Write `target` (.onnx) from a run folder or student.pt and return the worst cosine distance found.

    Input "images" is (batch, c, h, w) float32, output "embeddings" (batch, dim), raw. What the input should
    be stands in a side-car beside the file (`student.onnx.toml`), so that `onnx:FILE` is a teacher at once.
    Random images go through both networks at every batch size of `check_batches` before the file is put in
    place. Raises KdbiasError where they disagree, or a library is missing.
    """
    runtime = require("onnxruntime", extra="onnx")
    require("onnxscript", extra="onnx")
    network, info = load_network(source)
    channels, (height, width) = info["kwargs"]["channels"], info["kwargs"]["image_size"]
    example = torch.zeros(2, channels, height, width)
    target = Path(target)
    with atomic_path(target) as temporary:
        with _silence():
            torch.onnx.export(
                network,
                (example,),
                str(temporary),
                input_names=["images"],
                output_names=["embeddings"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
            )
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        worst = max(_distance(network, session, (b, channels, height, width)) for b in check_batches)
        if not worst <= _TOLERANCE:
            raise KdbiasError(
                f"{target}: the exported network's embeddings differ from the student's "
                f"(cosine distance {worst:.2g}); it was not written"
            )
    with atomic_path(target.with_name(f"{target.name}.toml")) as temporary:
        lines = [f"{key} = {json.dumps(value)}" for key, value in info["preprocessing"].items()]
        temporary.write_text("\n".join(["[preprocessing]", *lines, ""]), encoding="utf-8")
    return worst


def _distance(network: torch.nn.Module, session: object, shape: tuple[int, ...]) -> float:
    """Largest 1 - cosine between the network's and the exported graph's embeddings."""
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).double()
    (found,) = session.run(None, {"images": images})  # type: ignore[attr-defined]
    cosines = torch.cosine_similarity(expected, torch.from_numpy(found).double())
    return float((1 - cosines).abs().max())


@contextlib.contextmanager
def _silence():
    """The exporter prints its progress to stdout, which belongs to results."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
