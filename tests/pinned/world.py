"""A small world: 300 pictures, and every stage run on them with defaults and with many options.

``python -m tests.pinned.world FOLDER`` makes it in a process of its own with one thread, so that what is
recorded depends on no other test. Commands run in FOLDER by relative paths; what each printed is in
``FOLDER/printed``.
"""

import io
import os
import sys
from pathlib import Path
from typing import Any

N = 300
TEACHER = "python:tests.pinned.teacher:factory"
TIMES = (
    *("seconds", "started", "finished", "created", "timings", "images_per_second", "data_wait"),
    *("digest", "digests"),
)
"""Keys of documents, and columns, that hold what a clock says, or a digest over it."""
METHODS = (
    *("natural", "class-balanced", "effective-number", "inverse-density"),
    *("knn-distance", "equilibrium", "cluster-balanced", "hard"),
)
_HERE = "--device cpu"
_EVALUATE = "evaluate {} -o score/{} --bootstrap 50"

STAGES: dict[str, str] = {
    "embed-defaults": f"embed data.parquet -o emb --teacher {TEACHER} --workers 0 {_HERE}",
    "embed-options": (
        "embed data.parquet -o emb-options --teacher torchscript:sums.pt --id-column key "
        "--label-column person --image-column image --where person!=p29 --root . --batch-size 32 "
        f"--precision fp32 --store float32 --workers 0 --flip --on-error fail --rows-per-part 100 {_HERE} "
        "--preprocessing preprocessing.toml --no-channels-last"
    ),
    "embed-precomputed": (
        "embed data.parquet -o emb-precomputed --teacher precomputed:vectors.npy --same-order "
        f"--where person!=p29 {_HERE}"
    ),
    "embed-plan": f"embed data.parquet -o emb-plan --teacher {TEACHER} --workers 0 {_HERE} --plan",
    "uniformity-defaults": f"uniformity emb -o density --threads 1 {_HERE}",
    **{f"weights-{m}": f"weights density -o weights/{m}.parquet --method {m} --threads 1" for m in METHODS},
    "weights-defaults": "weights density -o weights/defaults.parquet",
    "weights-hygiene": (
        "weights density -o weights/hygiene.parquet --method class-balanced --embeddings emb --min-ess 0.7 "
        "--temper 0.5 --clip 3 --mix 0.1 --collapse near --near 0.9999"
    ),
    "weights-equilibrium-options": (
        "weights density -o weights/equilibrium-options.parquet --method equilibrium --embeddings emb --t 2 "
        "--min-ess 0.6 --cap 4 --tolerance 0.0001 --max-seconds 300 --memory 256MiB --threads 1 --temper 0.9 "
        "--clip 5 --mix 0.05 --collapse none"
    ),
    "weights-chosen": "weights density -o weights/chosen.parquet --t chosen --threads 1",
    "weights-matched": "weights density -o weights/matched.parquet --towards balanced:camera --threads 1",
    "weights-effective-number-options": (
        "weights density -o weights/effective-number-options.parquet --method effective-number --beta 0.9"
    ),
    "weights-inverse-density-options": (
        "weights density -o weights/inverse-density-options.parquet --method inverse-density --t 2"
    ),
    "weights-knn-distance-options": (
        "weights density -o weights/knn-distance-options.parquet --method knn-distance --exponent 2"
    ),
    "weights-cluster-balanced-options": (
        "weights density -o weights/cluster-balanced-options.parquet --method cluster-balanced --keep 0.5 "
        "--clusters 20,5 --seed 3 --threads 1"
    ),
    "weights-hard-options": "weights density -o weights/hard-options.parquet --method hard --exponent 2",
    "frontier-defaults": "weights density -o frontier --frontier --threads 1",
    "frontier-options": (
        "weights density -o frontier-options --frontier --embeddings emb --t 2 --tolerance 0.01 "
        "--memory 256MiB --threads 1 --seed 1"
    ),
    "uniformity-options": (
        "uniformity emb -o density-options --weights weights/equilibrium.parquet "
        "--weights weights/class-balanced.parquet --k 10 --t 2,5 --search exact --estimator knn --exponent 3 "
        f"--precision float32 --memory 256MiB --threads 1 --group-by camera --group-by person {_HERE} "
        "--rectification chosen --keep-neighbors --seed 3"
    ),
    "uniformity-vmf": (
        "uniformity emb -o density-vmf --t 4 --estimator vmf --rectification none --threads 1 --k 5"
    ),
    "uniformity-ivf": (
        "uniformity emb -o density-ivf --t 4 --search ivf --k 5 --rectification none --threads 1 --seed 2"
    ),
    "changes-defaults": "changes weights/equilibrium.parquet",
    "changes-options": (
        "changes weights/class-balanced.parquet --density density --group-by camera --top 3 -o changes"
    ),
    "train-defaults": (
        "train data.parquet -o run --embeddings emb --epochs 2 --threads 1 --workers 0 --device cpu"
    ),
    "train-options": (
        "train data.parquet -o run-options --embeddings emb-options --weights weights/kept.parquet "
        "--where person!=p28 --id-column key --label-column person --image-column image --root . "
        "--student convnet --dim 16 --image-size 12x12 --color L --loss l2e+0.5*arcface --scale 32 "
        "--margin 0.3 --flip target --epochs 2 --batch-size 50 --optimizer adamw --lr 0.003 "
        "--weight-decay 0.01 --schedule step --milestones 0.5,0.8 --warmup 0.5 --clip-grad 1 --sampling iid "
        "--precision fp32 --ema 0.9 --seed 3 --deterministic --threads 1 --workers 0 --cache 1MiB "
        f"--checkpoint-seconds 0 {_HERE}"
    ),
    "train-config": "train data.parquet -o run-config --config recipe.toml --seed 4",
    "evaluate-knn-defaults": "evaluate emb -o score/knn",
    "evaluate-knn-options": (
        _EVALUATE.format("emb", "knn-options") + " --protocol knn --where split=test --reference emb "
        "--gallery emb --gallery-where split=train --group-by camera --cluster-by person --k 3 "
        "--tail-from density --seed 2"
    ),
    "evaluate-linear-defaults": (
        "evaluate emb -o score/linear --protocol linear --where split=test --gallery emb"
    ),
    "evaluate-linear-options": (
        _EVALUATE.format("emb", "linear-options") + " --protocol linear --where split=test --gallery emb "
        "--gallery-where split=train --group-by camera --cluster-by camera --tail-from density --seed 2"
    ),
    "evaluate-fidelity-defaults": (
        "evaluate run -o score/fidelity --data data.parquet --protocol fidelity --reference emb --workers 0 "
        + _HERE
    ),
    "evaluate-fidelity-options": (
        _EVALUATE.format("run-options", "fidelity-options") + " --protocol fidelity --data data.parquet "
        "--reference emb-options --density density --group-by camera --where person!=p29 --id-column key "
        "--label-column person --image-column image --root . --cluster-by camera --seed 2 --precision fp32 "
        f"--batch-size 50 --workers 0 {_HERE}"
    ),
    "evaluate-verification-defaults": (
        "evaluate emb -o score/verification --protocol verification --pairs pairs.csv"
    ),
    "evaluate-verification-options": (
        _EVALUATE.format("emb-options", "verification-options") + " --protocol verification "
        "--pairs pairs.csv --folds 1,2,3,4 --style facex --far 0.1,0.01 --group-by camera "
        "--cluster-by race --seed 2"
    ),
    "evaluate-verification-exact": (
        _EVALUATE.format("emb-options", "verification-exact") + " --protocol verification "
        "--pairs pairs.csv --style exact --flip-fusion unit"
    ),
    "evaluate-rfw-defaults": (
        "evaluate emb -o score/rfw --protocol rfw --pairs pairs.csv --group-column camera"
    ),
    "evaluate-rfw-options": (
        _EVALUATE.format("emb-options", "rfw-options") + " --protocol rfw --pairs pairs.csv "
        "--group-column race --folds 1,2,3 --style exact --flip-fusion raw --cluster-by camera --seed 2"
    ),
    "evaluate-ijbc-defaults": "evaluate emb -o score/ijbc --protocol ijbc --pairs template_pairs.txt",
    "evaluate-ijbc-options": (
        _EVALUATE.format("emb-options", "ijbc-options") + " --protocol ijbc --pairs template_pairs.txt "
        "--templates templates.txt --detector-scores points.txt --no-keep-norm --far 0.1,0.01 --seed 2 "
        "--flip-fusion unit"
    ),
    "evaluate-reid-defaults": (
        "evaluate emb-options -o score/reid --protocol reid --where split=test --gallery-where split=train"
    ),
    "evaluate-reid-options": (
        _EVALUATE.format("emb-options", "reid-options") + " --protocol reid --where split=test "
        "--gallery emb-options --gallery-where split=train --camera-column media --group-by camera "
        "--cluster-by label --seed 2"
    ),
    "evaluate-knn-student": f"evaluate run -o score/knn-student --data data.parquet --workers 0 {_HERE}",
    "compare-defaults": "compare score/knn --to score/knn-student",
    "evaluate-knn-config": (
        f"evaluate run-config -o score/knn-config --data data.parquet --workers 0 {_HERE} --bootstrap 0"
    ),
    "compare-options": (
        "compare score/knn --to score/knn-student score/knn-config -o compared.json --bootstrap 100 --seed 2"
    ),
    "report-defaults": (
        "report density-options weights/equilibrium.parquet weights/class-balanced.parquet frontier run "
        "score/knn score/knn-student score/verification-options -o page.html --root ."
    ),
    "report-options": "report density weights/equilibrium.parquet -o short.html --title Short --pictures 0",
    **{
        f"inspect-{name}": f"inspect {path}"
        for name, path in {
            "data": "data.parquet",
            "embedding": "emb",
            "density": "density",
            "weights": "weights/equilibrium.parquet --rows 2",
            "frontier": "frontier",
            "changes": "changes",
            "run": "run",
            "student": "run/student.pt",
            "evaluation": "score/knn",
            "page": "page.html",
            "outputs": ".",
        }.items()
    },
}


def png(image: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def pictures() -> Any:
    """uint8 (300, 12, 12): two labels, 30 persons; two exact and three near copies at the end."""
    import numpy as np

    chance = np.random.RandomState(7)  # its stream is frozen; a Generator's is not
    person = chance.randint(0, 25, (30, 4, 4)).repeat(3, axis=1).repeat(3, axis=2)
    images = person[np.arange(N) % 30] + chance.randint(40, 140, (N, 12, 12))
    images[np.arange(N) % 30 < 8, :6] += 15  # the rarer label
    images[295:297] = images[[5, 15]]
    images[297:300] = images[[7, 17, 27]]
    images[297:300, 4, 4] += 1
    return images.astype(np.uint8)


def write_inputs(folder: Path) -> None:
    """Everything that the commands read and none of them writes."""
    import numpy as np
    import pandas as pd
    import torch

    sums = torch.nn.Sequential(torch.nn.AvgPool2d(3, divisor_override=1), torch.nn.Flatten())
    torch.jit.script(sums).save(str(folder / "sums.pt"))
    images, row = pictures(), np.arange(N)
    person = row % 30
    copy_of = {295: 5, 296: 15, 297: 7, 298: 17, 299: 27}
    person = np.array([copy_of.get(i, i) % 30 for i in row])
    ids = [f"s{i:03d}" for i in row]
    frame = pd.DataFrame(
        {
            "sample_id": ids,
            "key": ids,
            "label": np.where(person < 8, "rare", "common"),
            "person": [f"p{p:02d}" for p in person],
            "camera": [f"c{i // 30 % 3}" for i in row],
            "race": [f"r{p % 2}" for p in person],
            "split": np.where(row // 30 % 5 < 2, "test", "train"),
            "template": person * 10 + row // 150,
            "media": row // 60,
        }
    )
    frame.assign(image=[png(i) for i in images]).to_parquet(folder / "data.parquet")
    np.save(folder / "vectors.npy", images.reshape(N, -1)[:, ::9].astype(np.float32) - 100)
    faulty = np.load(folder / "vectors.npy")
    faulty[100] = np.nan
    np.save(folder / "faulty.npy", faulty)
    chance = np.random.RandomState(8)
    first = chance.permutation(270)[:240]
    second = (first + np.where(np.arange(240) % 2 == 0, 90, 92)) % 270  # of one person and camera, or another
    known = person[first] < 29, person[second] < 29
    pairs = pd.DataFrame(
        {
            "first": [ids[i] for i in first],
            "second": [ids[i] for i in second],
            "same": (person[first] == person[second]).astype(int),
            "race": frame.race[first].to_numpy(),
            "camera": frame.camera[first].to_numpy(),
        }
    )[np.logical_and.reduce(known)].reset_index(drop=True)
    pairs["fold"] = pairs.index // 2 % 10 + 1
    pairs.to_csv(folder / "pairs.csv", index=False)
    templates = sorted({int(t) for t in frame.template[person < 29]})
    chosen = [(a, b) for a in templates for b in templates if a < b and ((a + b) % 7 == 0 or b - a == 1)]
    lines = [f"{a} {b} {int(a // 10 == b // 10)}" for a, b in chosen]
    (folder / "template_pairs.txt").write_text("\n".join(lines) + "\n")
    rows = [i for i in row if person[i] < 29]
    lines = [f"{ids[i]} {frame.template[i]} {frame.media[i]}" for i in rows]
    (folder / "templates.txt").write_text("\n".join(lines) + "\n")
    lines = [" ".join([ids[i], *["1.5"] * 10, str(0.5 + i % 50 / 100)]) for i in rows]
    (folder / "points.txt").write_text("\n".join(lines) + "\n")
    (folder / "preprocessing.toml").write_text(
        '[preprocessing]\nsize = [12, 12]\ncolor = "L"\nmean = [128.0]\nstd = [2.0]\n'
    )
    (folder / "recipe.toml").write_text(
        'embeddings = "emb"\nepochs = 1\nbatch_size = 60\nlr = 0.02\nschedule = "constant"\nwarmup = 0\n'
        'workers = 0\nthreads = 1\ndevice = "cpu"\nseed = 1\n'
    )
    kept = frame[(person < 28)][["sample_id"]].assign(weight=1.0 + (row[person < 28] % 3))
    (folder / "weights").mkdir()
    kept.to_parquet(folder / "weights" / "kept.parquet")


def build(folder: Path) -> None:
    from click.testing import CliRunner

    from kdbias.cli import main

    folder.mkdir(parents=True)
    os.chdir(folder)
    write_inputs(folder)
    (folder / "printed").mkdir()
    for name, command in STAGES.items():
        result = CliRunner().invoke(main, [*command.split(), "-q"])
        if result.exit_code != 0:
            sys.exit(f"{command}\nended with {result.exit_code}: {result.output} {result.exception!r}")
        (folder / "printed" / f"{name}.txt").write_text(result.stdout)


if __name__ == "__main__":
    build(Path(sys.argv[1]).absolute())
