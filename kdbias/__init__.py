"""kdbias: measure and rectify the data bias in knowledge distillation.

Each stage of the command line is one function here, with the same names::

    import kdbias

    kdbias.embed("images/", "emb", teacher="run:teacher")
    kdbias.uniformity("emb", "density")
    kdbias.weights("density", "weights.parquet", method="equilibrium")
    kdbias.train("images/", "student", embeddings="emb", weights="weights.parquet")

Names are imported when first used, so ``import kdbias`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdbias.version import __version__

if TYPE_CHECKING:
    from kdbias.data.opening import open_data
    from kdbias.demonstration.story import demo
    from kdbias.embedding.stage import embed
    from kdbias.errors import KdbiasError
    from kdbias.evaluation import compare, evaluate
    from kdbias.inspection.describe import inspect
    from kdbias.measurement.stage import uniformity
    from kdbias.reporting import report
    from kdbias.sampler.manifest_sampler import ManifestSampler
    from kdbias.studies.stage import study
    from kdbias.tables.density_table import read_density
    from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
    from kdbias.tables.weight_manifest import read_manifest
    from kdbias.training.loop import train
    from kdbias.weighting.changes import what_changed
    from kdbias.weighting.frontier import frontier
    from kdbias.weighting.stage import weights

_HOME = {
    "EmbeddingTable": "kdbias.tables.embedding_table",
    "KdbiasError": "kdbias.errors",
    "ManifestSampler": "kdbias.sampler.manifest_sampler",
    "compare": "kdbias.evaluation",
    "demo": "kdbias.demonstration.story",
    "embed": "kdbias.embedding.stage",
    "evaluate": "kdbias.evaluation",
    "frontier": "kdbias.weighting.frontier",
    "inspect": "kdbias.inspection.describe",
    "open_data": "kdbias.data.opening",
    "read_density": "kdbias.tables.density_table",
    "read_manifest": "kdbias.tables.weight_manifest",
    "report": "kdbias.reporting",
    "study": "kdbias.studies.stage",
    "train": "kdbias.training.loop",
    "uniformity": "kdbias.measurement.stage",
    "weights": "kdbias.weighting.stage",
    "what_changed": "kdbias.weighting.changes",
    "write_embedding_table": "kdbias.tables.embedding_table",
}

__all__ = [
    "EmbeddingTable",
    "KdbiasError",
    "ManifestSampler",
    "__version__",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "frontier",
    "inspect",
    "open_data",
    "read_density",
    "read_manifest",
    "report",
    "study",
    "train",
    "uniformity",
    "weights",
    "what_changed",
    "write_embedding_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdbias' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
