"""kdbias: measure and rectify the data bias in knowledge distillation.

Each stage of the command line is one function here, with the same names:

    import kdbias

    kdbias.embed("images/", "emb", teacher="run:teacher")
    kdbias.uniformity("emb", "density")
    kdbias.weights("density", "weights.parquet", method="equilibrium")
    kdbias.train("images/", "student", embeddings="emb", weights="weights.parquet")

Names are imported when first used, so ``import kdbias`` is quick; ``__init__.pyi`` shows them to editors.
"""

from importlib import import_module
from typing import Any

from kdbias.version import __version__ as __version__

_HOME = {
    "EmbeddingTable": "kdbias.tables.embedding_table",
    "KdbiasError": "kdbias.errors",
    "ManifestSampler": "kdbias.sampler.manifest_sampler",
    "advise": "kdbias.advice.stage",
    "compare": "kdbias.evaluation",
    "demo": "kdbias.demonstration.story",
    "embed": "kdbias.embedding.stage",
    "evaluate": "kdbias.evaluation",
    "frontier": "kdbias.weighting.frontier",
    "inspect": "kdbias.inspection.describe",
    "new_study": "kdbias.studies.new_study",
    "open_data": "kdbias.data.opening",
    "pilot": "kdbias.studies.pilot",
    "read_density": "kdbias.tables.density_table",
    "read_manifest": "kdbias.tables.weight_manifest",
    "report": "kdbias.reporting",
    "run": "kdbias.pipeline.stage",
    "study": "kdbias.studies.stage",
    "suspects": "kdbias.measurement.suspect_list",
    "train": "kdbias.training.stage",
    "uniformity": "kdbias.measurement.stage",
    "weights": "kdbias.weighting.stage",
    "what_changed": "kdbias.weighting.changes",
    "write_embedding_table": "kdbias.tables.embedding_table",
}

__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'kdbias' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return __all__
