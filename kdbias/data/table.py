"""Tabular manifests: CSV and Parquet, with the images' paths or the images themselves."""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.digests import digest_of
from kdbias.data.folder import FolderImages
from kdbias.data.parquet_images import ParquetImages, holds_images
from kdbias.data.roots import leaves_root
from kdbias.data.source import Images, Options, Source, make_source
from kdbias.errors import KdbiasError
from kdbias.tables.joins import as_strings, shown

_ID, _LABEL, _PATH, _IMAGE = "sample_id", "label", "path", "image"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def open_table(data: str, options: Options) -> Source:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` manifest, or a folder of Parquet files with one schema.

    Columns: the id is ``options.id_column``, else ``sample_id``, else the path relative to the root; the
    label is ``options.label_column``, else ``label`` where there is one; images come from
    ``options.image_column``, else from the path column where one is named, else from a binary column
    ``image`` (or a struct with a field ``bytes``), else from the files in ``path``. All further scalar
    columns become groups.

    Paths start from the root (default: the manifest's folder) and may not leave it. The fingerprint covers
    the manifest's content, not that of image files it points to.

    Raises:
        KdbiasError: missing columns, paths that leave the root, repeated ids, no rows.
    """
    files = _files(data)
    schema = _schema(files)
    image = _image_column(data, schema, options)
    chosen = {
        _ID: _pick(data, schema, options.id_column, _ID, "--id-column"),
        _LABEL: _pick(data, schema, options.label_column, _LABEL, "--label-column"),
        _PATH: _pick(data, schema, options.path_column, _PATH, "--path-column"),
    }
    table, skipped = _read_columns(data, files, schema, image, chosen, options)
    if not table.num_rows:
        raise KdbiasError(f"{data}: holds no samples")

    root = os.path.abspath(options.root or _folder_of(data))
    paths = (
        None if chosen[_PATH] is None else _relative(data, table[chosen[_PATH]], root, images=image is None)
    )
    if image is not None:
        images: Images = ParquetImages(files, image)
    elif paths is not None:
        images = FolderImages(root, paths)
    else:
        raise KdbiasError(
            f"{data}: no column {_IMAGE!r} with image bytes and no column {_PATH!r}; name one with "
            f"--image-column or --path-column; it has {', '.join(schema.names)}"
        )
    if chosen[_ID] is not None:
        ids = table[chosen[_ID]]
    elif paths is not None:
        ids = paths
    else:
        raise KdbiasError(
            f"{data}: no column {_ID!r} and no paths to take ids from; name one with --id-column; "
            f"it has {', '.join(schema.names)}"
        )
    labels = None if chosen[_LABEL] is None else _labels(table[chosen[_LABEL]], options.label_names)
    used = {chosen[_ID], chosen[_LABEL], chosen[_PATH], image}
    groups = {name: table[name] for name in table.column_names if name not in used}
    renamed = {chosen[key]: key for key in (_ID, _LABEL) if chosen[key] not in (None, key)}
    notes = [f"columns that hold no plain values left out: {', '.join(skipped)}"] if skipped else []
    digest = [[digest_of(file) for file in files], {k: v for k, v in chosen.items()}, image, sorted(groups)]
    return make_source(
        "table", data, ids, images, digest, labels, groups, {str(k): v for k, v in renamed.items()}, notes
    )


def _folder_of(data: str) -> str:
    return data if os.path.isdir(data) else os.path.dirname(os.path.abspath(data))


def _files(data: str) -> list[str]:
    if not os.path.isdir(data):
        return [data]
    names = sorted(n for n in os.listdir(data) if n.endswith(".parquet") and not n.startswith("."))
    return [os.path.join(data, name) for name in names]


def _delimiter(file: str) -> str | None:
    return _DELIMITERS.get(os.path.splitext(file)[1].lower())


def _schema(files: Sequence[str]) -> pa.Schema:
    import pyarrow.parquet as pq

    try:
        if (delimiter := _delimiter(files[0])) is not None:
            return _csv_header(files[0], delimiter)
        schemas = [pq.read_schema(file).remove_metadata() for file in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise KdbiasError(f"{files[0]}: cannot be read ({str(error).splitlines()[0]})") from None
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise KdbiasError(f"{file}: other columns ({', '.join(schema.names)}) than {files[0]}")
    names = schemas[0].names
    if len(set(names)) != len(names):
        raise KdbiasError(f"{files[0]}: column names occur twice ({', '.join(names)})")
    return schemas[0]


def _csv_header(file: str, delimiter: str) -> pa.Schema:
    import csv

    with open(file, encoding="utf-8-sig", newline="") as handle:
        try:
            names = next(csv.reader(handle, delimiter=delimiter), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise KdbiasError(f"{file}: not a CSV file in UTF-8 ({error})") from None
    if not names:
        raise KdbiasError(f"{file}: empty; the first line must name the columns")
    if len(set(names)) != len(names):
        raise KdbiasError(f"{file}: column names occur twice ({', '.join(names)})")
    return pa.schema([(name, pa.string()) for name in names])


def _pick(data: str, schema: pa.Schema, named: str | None, usual: str, option: str) -> str | None:
    if named is None:
        return usual if usual in schema.names and not holds_images(schema.field(usual).type) else None
    if named not in schema.names:
        raise KdbiasError(f"{data}: no column {named!r} for {option}; it has {', '.join(schema.names)}")
    if pa.types.is_nested(schema.field(named).type) or holds_images(schema.field(named).type):
        raise KdbiasError(
            f"{data}: column {named!r} for {option} holds {schema.field(named).type}, not plain values"
        )
    return named


def _image_column(data: str, schema: pa.Schema, options: Options) -> str | None:
    named = options.image_column
    if named is None:
        usual = options.path_column is None and _IMAGE in schema.names
        return _IMAGE if usual and holds_images(schema.field(_IMAGE).type) else None
    if named not in schema.names:
        raise KdbiasError(f"{data}: no column {named!r} for --image-column; it has {', '.join(schema.names)}")
    if not holds_images(schema.field(named).type):
        raise KdbiasError(
            f"{data}: column {named!r} holds {schema.field(named).type}, not image bytes; columns of paths "
            "go to --path-column"
        )
    return named


def _read_columns(
    data: str,
    files: Sequence[str],
    schema: pa.Schema,
    image: str | None,
    chosen: dict[str, str | None],
    options: Options,
) -> tuple[pa.Table, list[str]]:
    """All plain columns (and the names of the others); the image column stays on disk."""
    for name in options.groups or ():
        if name not in schema.names:
            raise KdbiasError(f"{data}: no column {name!r} for groups; it has {', '.join(schema.names)}")
    plain, skipped = [], []
    wanted = None if options.groups is None else {*options.groups, *chosen.values()}
    for field in schema:
        if field.name == image:
            continue
        if pa.types.is_nested(field.type) or holds_images(field.type):
            skipped.append(field.name)
        elif wanted is None or field.name in wanted:
            plain.append(field.name)
    delimiter = _delimiter(files[0])
    try:
        if delimiter is not None:
            return _read_csv(files[0], delimiter, [c for c in chosen.values() if c], plain), skipped
        import pyarrow.parquet as pq

        tables = [pq.ParquetFile(file).read(columns=plain) for file in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise KdbiasError(f"{data}: cannot be read ({str(error).splitlines()[0]})") from None
    return pa.concat_tables(tables), skipped


def _read_csv(file: str, delimiter: str, as_text: list[str], columns: list[str]) -> pa.Table:
    from pyarrow import csv

    # Ids, labels and paths stay text: read as numbers, "0012" would become "12".
    return csv.read_csv(
        file,
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.large_string() for name in as_text},
            include_columns=columns,
        ),
    )


def _relative(data: str, values: pa.ChunkedArray, root: str, images: bool) -> pa.Array:
    """Paths relative to the root, with ``/``; those that leave it are refused when images lie there."""
    paths = as_strings(values)
    if paths.null_count or pc.any(pc.equal(paths, "")).as_py():
        raise KdbiasError(f"{data}: {paths.null_count or 'some'} rows have no path")
    base = root.rstrip(os.sep) + os.sep
    inside = pc.starts_with(paths, base)
    if pc.any(inside).as_py():
        paths = pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(base)), paths)
    if pc.any(pc.starts_with(paths, "./")).as_py():
        paths = pc.replace_substring_regex(paths, r"^(\./)+", "")
    suspect = paths.filter(pc.match_substring_regex(paths, r"^[/\\]|^.:|(^|[/\\])\.\.([/\\]|$)|\x00"))
    leaving = [path for path in suspect.to_pylist() if leaves_root(path)] if images else []
    if leaving:
        raise KdbiasError(
            f"{data}: {len(leaving):,} paths leave the data root {root} ({shown(pa.array(leaving))}); give "
            "the folder above all images as --root"
        )
    return paths


def _labels(values: pa.ChunkedArray, names: Sequence[str] | None) -> pa.Array:
    if names is not None:
        return named_labels(values, names)
    labels = as_strings(values)
    return pc.if_else(pc.equal(labels, ""), None, labels)


def named_labels(values: pa.Array | pa.ChunkedArray, names: Sequence[str]) -> pa.Array:
    """Names of integer labels 0..len(names)-1.

    Raises:
        KdbiasError: a label has no name.
    """
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise KdbiasError(f"label_names need integer labels ({error})") from None
    span = pc.min_max(numbers).as_py()
    if span["min"] is not None and (span["min"] < 0 or span["max"] >= len(names)):
        raise KdbiasError(
            f"labels run from {span['min']} to {span['max']}, but label_names has {len(names)} names"
        )
    return as_strings(pa.array(list(names), pa.large_string()).take(numbers))
