"""kdbias embed"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import overwrite, teacher_folder
from kdbias.cli.options import stage_command
from kdbias.data import forms
from kdbias.embedding.settings import EmbedSettings


@stage_command("embed", click.argument("data"), teacher_folder, EmbedSettings, overwrite)
def command(**given: Any) -> Any:
    """Turn images into a table of teacher embeddings (Parquet parts in OUT).

    DATA is {forms}. The same command again resumes; a finished one does nothing.

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
    return kdbias.embed(**given)


command.help = str(command.help).format(forms=forms())
