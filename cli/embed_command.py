"""kdbias embed"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options, overwrite, teacher_folder
from kdbias.cli.options import settings_options
from kdbias.embedding.settings import EmbedSettings


@click.command("embed", cls=StageCommand)
@options(click.argument("data"), teacher_folder, settings_options(EmbedSettings), overwrite)
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
