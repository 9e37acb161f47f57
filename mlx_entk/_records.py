"""Typed records and the JSON that stands for them on disk.

A record is a frozen dataclass whose fields are the keys of a JSON object. What comes back from
disk may have been altered by anybody: every value is checked against its field's type.
"""

import json
from typing import Any, TypeVar

import msgspec
import numpy as np

from mlx_entk.errors import InputError

Record = TypeVar("Record")

# A field with this default is left out of the JSON until it has a value.
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


def to_json(record: object) -> Any:
    """A record, or a list of them, as plain JSON: dictionaries, lists, strings, numbers and None.

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
    raise NotImplementedError(f"{type(value).__name__} has no form in JSON")


def from_json(kind: type[Record], value: object, source: str) -> Record:
    """A record of a kind again.

    Parameters
    ----------
    value
        What ``to_json`` made. Keys that the record does not have are ignored.
    source
        What messages call the place that the value comes from.

    Raises
    ------
    InputError
        If a key is missing or has another type; the message names the key.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{source} is damaged: {error}") from error
