"""Small pictures of many samples on a few sheets, for the map."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.progress import bar
from kdbias.reporting.thumbnails import coded, data_uri, read_picture

if TYPE_CHECKING:
    from PIL import Image

    from kdbias.data.source import Source

SIDE = 64  # pixels of a tile: whole blocks of a JPEG, so that no neighbour shines through
ACROSS = 16  # tiles a row and a column of a sheet
_QUALITY = 72
_LETTERS = 2_400_000  # of a page that sheets may take, before the last of them


@dataclass(frozen=True)
class Sheets:
    """Pictures of some samples of the map.

    Attributes:
        count: how many there are.
        document: sheets (data URIs), places (of each sample's tile, -1 for none), side and across.
    """

    count: int
    document: dict[str, Any]


def sheets(source: Source, rows: np.ndarray, most: int) -> Sheets:
    """Pictures of up to ``most`` samples, drawn at random; fewer of pictures that need much room.

    Args:
        source: where pictures come from.
        rows: (m,) of the source for each sample of the map; -1 where it has none.
    """
    from PIL import Image

    places = np.full(len(rows), -1, np.int16)
    tried = np.random.default_rng(1).permutation(np.flatnonzero(rows >= 0))[:most]
    uris, tiles, count = list[str](), list[Image.Image](), 0
    with bar(len(tried), "pictures", "pictures of the map") as progress:
        for i in tried:
            tile = _tile(source, int(rows[i]))
            progress.update(1)
            if tile is None:
                continue
            places[i] = count
            count += 1
            tiles.append(tile)
            if len(tiles) == ACROSS**2:
                uris.append(_sheet(tiles))
                tiles = []
                if sum(map(len, uris)) > _LETTERS:
                    break
    uris += [_sheet(tiles)] if tiles else []
    document = {"sheets": uris, "places": coded(places, "<i2"), "side": SIDE, "across": ACROSS}
    return Sheets(count, document)


def _tile(source: Source, row: int) -> Image.Image | None:
    """A picture on a square; None for an unreadable one."""
    from PIL import Image

    picture = read_picture(source, row, SIDE)
    if picture is None:
        return None
    factor = max(1, SIDE // max(picture.size))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (SIDE, SIDE))
    tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return tile


def _sheet(tiles: list[Image.Image]) -> str:
    """A JPEG of tiles, row by row, as data URI."""
    from PIL import Image

    down = -(-len(tiles) // ACROSS)
    sheet = Image.new("RGB", (min(len(tiles), ACROSS) * SIDE, down * SIDE))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % ACROSS * SIDE, k // ACROSS * SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return data_uri("jpeg", buffer.getvalue())
