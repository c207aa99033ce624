"""kdbias embed"""

from typing import Any

import click

from kdbias.cli.common import (
    StageCommand,
    data_columns,
    device,
    options,
    overwrite,
    root,
    teacher_folder,
    teacher_output,
    where,
)


@click.command("embed", cls=StageCommand)
@options(
    click.argument("data"),
    teacher_folder,
    click.option("--teacher", required=True, metavar="SPEC", help="What computes the embeddings; see above."),
    teacher_output,
    data_columns,
    where,
    root,
    click.option(
        "--same-order",
        is_flag=True,
        help="A precomputed array without ids is taken by position: row i is sample i, before --where.",
    ),
    click.option(
        "--batch-size", default=64, show_default=True, type=click.IntRange(1), help="Images a batch."
    ),
    device,
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="Arithmetic of the teacher's forward pass.",
    ),
    click.option(
        "--store",
        default="float16",
        show_default=True,
        type=click.Choice(["float16", "float32"]),
        help="How unit vectors are stored.",
    ),
    click.option(
        "--workers", default=2, show_default=True, type=click.IntRange(0), help="Decoding processes."
    ),
    click.option("--flip", is_flag=True, help="Store the mirrored image's embedding too (embedding_flip)."),
    click.option(
        "--on-error",
        default="skip",
        show_default=True,
        type=click.Choice(["skip", "fail"]),
        help="What an unreadable image does: a row in failures.parquet, or an end.",
    ),
    click.option("--rows-per-part", type=click.IntRange(1), help="Rows a file [a sixteenth, 2048 to 16384]."),
    click.option("--plan", is_flag=True, help="Print counts, bytes and parts, then stop."),
    click.option(
        "--preprocessing", metavar="FILE.toml", help="Its [preprocessing] table replaces the teacher's own."
    ),
    click.option(
        "--channels-last/--no-channels-last",
        default=None,
        help="Memory layout of a torch network [channels last with bf16, fp16].",
    ),
    click.option("--compile", is_flag=True, help="Compile the network first (torch.compile)."),
    overwrite,
)
def command(**parameters: Any) -> Any:
    """Turn images into a table of teacher embeddings (Parquet parts in OUT).

    DATA is an image folder (class = sub-folder), a .csv or .parquet manifest (image paths or bytes), a .toml
    description, MXNet RecordIO (.rec), WebDataset tars, a verification .bin, a saved Hugging Face set or
    torchvision:NAME. The same command again resumes; a finished one does nothing.

    \b
    Teachers:
      torchvision:resnet50            pretrained, pooled features; @FILE loads a state dict
      timm:NAME                       likewise
      onnx:FILE  openvino:FILE  torchscript:FILE   preprocessing from FILE.toml or --preprocessing
      kdbias:iresnet50@FILE           insightface state dicts load
      run:RUN_DIR                     a model that kdbias train made
      python:package.module:factory   your own code (it is run)
      precomputed:FILE.npy|.npz|.parquet   or a folder of them; DATA then needs no images

    \b
    Examples:
      kdbias embed photos/ -o emb --teacher torchvision:resnet50
      kdbias embed people.parquet -o emb --teacher run:teacher --label-column person --where split=train
      kdbias embed faces.parquet -o emb --teacher precomputed:vectors.npy --same-order
      kdbias embed vectors.parquet -o emb --teacher precomputed:vectors.parquet
    """
    from kdbias.embedding.stage import embed

    return embed(**parameters)
