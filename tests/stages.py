"""Stages with what they own, for tests of runs that do not run them."""

from kdbias.tables.run_record import Stage

EMBED = Stage("embed", files=("part-*.parquet", "failures.parquet"), folders=("parts",))
UNIFORMITY = Stage(
    "uniformity",
    files=("density.parquet", "uniformity.json", "schemes.parquet", "neighbors.parquet", "intervals.parquet"),
    folders=("pairs",),
    passing=("pass.npz",),
)
WEIGHTS = Stage("weights")
FRONTIER = Stage("frontier", files=("frontier.parquet",))
TRAIN = Stage(
    "train",
    files=("student.pt", "metrics.csv", "config.toml"),
    folders=("tensorboard",),
    passing=("checkpoint.pt",),
)
EVALUATE = Stage("evaluate", files=("metrics.json", "units.parquet"), folders=("embeddings",))
DEMO = Stage("demo", files=("data", "students"))
STUDY = Stage("study")
