"""Typed records, and the JSON that stands for them on disk.

A record is a frozen dataclass whose fields are the keys of a JSON object. A file may have been
altered since it was written, so every value that is read is checked against its field's type.
"""

import json
from typing import Any, TypeVar

import msgspec
import numpy as np

from mlx_entk.errors import InputError

Record = TypeVar("Record")


def to_json(record: object) -> Any:
    """Turn a record, or a list of them, into dictionaries, lists, strings, numbers and None.

    Raises
    ------
    ValueError
        For NaN and infinite numbers, which JSON does not have.
    """
    plain = msgspec.to_builtins(record, enc_hook=_as_builtin)
    return json.loads(json.dumps(plain, allow_nan=False))  # tuples become lists


def _as_builtin(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} cannot be written as JSON")


def from_json(kind: type[Record], value: object, source: str) -> Record:
    """Turn plain JSON back into a record of type ``kind``.

    Parameters
    ----------
    kind
        The type of the record.
    value
        What ``to_json`` returned. Keys that the record does not have are ignored.
    source
        Where the value comes from, as messages call it.

    Raises
    ------
    InputError
        If a key is missing or has another type; the message names the key.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{source} is damaged: {error}") from error
