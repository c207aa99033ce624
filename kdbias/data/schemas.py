"""One schema for the files of a data set, whose types may differ where their values do not."""

from collections.abc import Sequence

import pyarrow as pa

from kdbias.data.image_columns import holds_images
from kdbias.errors import KdbiasError
from kdbias.tables.plain import plain_type


def unified(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """The columns of the first file with types that hold the values of all.

    A column of nulls fits any other, integers fit wider ones and floats, texts fit each other however Arrow
    keeps them. The order of columns does not matter.

    Args:
        schemas: (file, its schema) of each.

    Raises:
        KdbiasError: a file lacks a column or has another, or types do not go together (both are named).
    """
    name, first = schemas[0]
    fields = {field.name: field for field in first}
    holders = dict.fromkeys(fields, name)
    for file, schema in schemas[1:]:
        if schema.equals(first):
            continue
        if sorted(schema.names) != sorted(first.names):
            odd = sorted(set(schema.names) ^ set(first.names)) or ["one twice"]
            raise KdbiasError(
                f"{file}: other columns ({', '.join(schema.names)}) than {name} ({', '.join(first.names)}); "
                f"only one has {', '.join(odd)}"
            )
        for field in schema:
            common = _common(fields[field.name].type, field.type)
            if common is None:
                raise KdbiasError(
                    f"{file}: its column {field.name!r} holds {field.type}, that of {holders[field.name]} "
                    f"{fields[field.name].type}; write both with one type"
                )
            if common != fields[field.name].type:
                fields[field.name], holders[field.name] = pa.field(field.name, common), file
    return pa.schema(list(fields.values()), first.metadata)


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The columns of a table in the order and types that `unified` found for them.

    Raises:
        KdbiasError: a value that the common type cannot hold.
    """
    for index, name in enumerate(table.column_names):
        kind = schema.field(name).type
        if table.schema.types[index] == kind:
            continue
        try:
            table = table.set_column(index, name, table.column(index).cast(kind))
        except pa.ArrowException as error:
            raise KdbiasError(
                f"{where}: its column {name!r} does not fit the {kind} of the other files ({error})"
            ) from None
    order = [name for name in schema.names if name in table.column_names]
    return table if order == table.column_names else table.select(order)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type for the values of both, None where there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    plain, second = plain_type(one), plain_type(other)
    if plain is None or second is None:
        # Files of images are read one by one, other such columns are left out.
        alike = holds_images(one) == holds_images(other) and plain is second
        return one if alike else None
    try:
        pair = [pa.schema([("x", kind)]) for kind in (plain, second)]
        return plain_type(pa.unify_schemas(pair, promote_options="permissive").field(0).type)
    except pa.ArrowException:
        return None
