"""Numbers that no option can mean are refused in one line, before anything is written."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from kdbias.cli import main

N = 24
HUGE = 10**20
NO_COUNT = (-1, 0, "nan", "inf", "0.5", "1e18")
NO_POSITIVE = (-1, 0, "nan", "inf")
NO_SHARE = (-1, 1.5, "nan", "inf", 1e18)
NO_MEMORY = (-1, 0, "nan", "inf", "1e18", "0GiB")

REFUSED = {
    "uniformity {emb}": {
        "--k": (*NO_COUNT, N, HUGE),
        "--t": (*NO_POSITIVE, "1e-300", "1e9", "1e18", HUGE, "2,1e9"),
        "--exponent": NO_POSITIVE,
        "--memory": NO_MEMORY,
        "--threads": (*NO_COUNT, HUGE),
        "--seed": (-1, "nan"),
    },
    "weights {density}": {
        "--t": (*NO_POSITIVE, "1e-300", "1e9", HUGE),
        "--min-ess": NO_SHARE,
        "--temper": (-1, "nan", "inf"),
        "--clip": (-1, 0, 1, "nan", "inf"),
        "--cap": (-1, 0, 1, "nan", "inf"),
        "--mix": NO_SHARE,
        "--near": (0.9,),  # read by --collapse near alone
        "--tolerance": NO_POSITIVE,
        "--max-seconds": (-1, "nan", "inf"),
        "--memory": NO_MEMORY,
        "--threads": (*NO_COUNT, HUGE),
        "--seed": (-1, "nan"),
    },
    "weights {density} --frontier": {
        "--t": (*NO_POSITIVE, "1e9"),
        "--tolerance": NO_POSITIVE,
        "--memory": NO_MEMORY,
        "--threads": (0, HUGE),
    },
    "weights {density} --collapse near": {"--near": (-1, 0, 1.1, "nan", "inf")},
    "weights {density} --method natural": {"--tolerance": NO_POSITIVE, "--memory": NO_MEMORY},
    "weights {density} --method effective-number": {"--beta": (-1, 1, "nan", "inf")},
    "weights {density} --method knn-distance": {"--exponent": (-1, "nan", "inf")},
    "weights {density} --method hard": {"--exponent": (-1, "nan", "inf")},
    "weights {density} --method cluster-balanced": {
        "--keep": (*NO_POSITIVE, 1.5),
        "--clusters": ("0", "-1", "1", "24", "4,8", "nan", str(HUGE)),
    },
    "train {data} --embeddings {emb}": {
        "--epochs": (*NO_COUNT, HUGE),
        "--batch-size": NO_COUNT,
        "--dim": (*NO_COUNT, HUGE),
        "--image-size": (0, -1, "nan", "1x2x3", "12x0", HUGE),
        "--lr": NO_POSITIVE,
        "--momentum": (-1, 1, "nan", "inf"),
        "--weight-decay": (-1, "nan", "inf"),
        "--warmup": (-1, "nan", "inf"),
        "--clip-grad": (-1, "nan", "inf"),
        "--ema": (-1, 1, "nan", "inf"),
        "--milestones": ("0", "1", "30", "nan", "inf"),
        "--instances": (-1, "nan"),
        "--seed": (-1, "nan", HUGE),
        "--threads": (*NO_COUNT, HUGE),
        "--workers": (-1, "nan", HUGE),
        "--cache": ("-1", "nan", "much"),
        "--checkpoint-seconds": (-1, "nan", "inf"),
    },
    "train {data} --loss arcface": {
        "--scale": NO_POSITIVE,
        "--margin": (-1, "nan", "inf"),
    },
    "embed {data} --teacher precomputed:{vectors} --same-order": {
        "--batch-size": NO_COUNT,
        "--workers": (-1, "nan", HUGE),
        "--rows-per-part": NO_COUNT,
    },
    "evaluate {emb}": {"--k": (*NO_COUNT, N, HUGE), "--bootstrap": (-1, "nan", HUGE), "--seed": (-1, "nan")},
    "evaluate {emb} --protocol verification --pairs {pairs}": {
        "--far": (*NO_SHARE, 0),
        "--folds": (-1, 0, 9),
    },
    "study {study}": {"--workers": (*NO_COUNT, HUGE), "--threads": (*NO_COUNT, HUGE)},
}


@pytest.fixture(scope="module")
def places(small, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("work")
    result = run(["uniformity", small["emb"], "-o", root / "density", "--k", 5, "--t", 2, "-q"])
    assert result.exit_code == 0, result.output
    ids = [f"s{i:02d}" for i in range(N)]
    pairs = {"first": ids[:-1], "second": ids[1:], "same": [0, 1] * (N // 2 - 1) + [0]}
    pd.DataFrame(pairs).to_csv(root / "pairs.csv", index=False)
    beside = {"density": root / "density", "pairs": root / "pairs.csv", "study": root / "study.toml"}
    return {**small, **beside}


def run(arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command in REFUSED for option in REFUSED[command]]
)
def test_absurd_numbers_are_refused(places, tmp_path, command, option):
    out = tmp_path / "out.parquet"
    for value in REFUSED[command][option]:
        result = run([*command.format(**places).split(), "-o", out, f"{option}={value}", "-q"])
        assert isinstance(result.exception, SystemExit), (value, result.exception)
        assert result.exit_code == 2, (value, result.output)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        named = option.strip("-")
        assert named in line or named.replace("-", "_") in line or str(value) in line, line
        assert not out.exists()
