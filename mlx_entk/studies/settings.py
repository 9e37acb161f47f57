"""Settings of a study: the fields of its configuration that a user chooses.

A configuration is a frozen dataclass. Fields made by ``setting`` are options of the study's
command as well as arguments of the class. The study fills in the others.
"""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

_HELP = "help"
_OPTION = "option"


def setting(help: str, default: T = MISSING, option: str = "") -> T:  # type: ignore[assignment]
    """A field of a configuration that a user chooses.

    A class that inherits the field may give it another default by ``name: type = value``, without
    repeating the help.

    Parameters
    ----------
    help
        One line for the command's help.
    default
        The default; leave it out if the classes that inherit the field give it one.
    option
        The name of the command's option, if it differs from the field's.
    """
    made: Any = field(default=default, metadata={_HELP: help, _OPTION: option})
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Setting:
    """A setting as a command offers it.

    Attributes
    ----------
    name
        Name of the field.
    option
        Name of the command's option, without the dashes in front.
    kind
        Its type: ``int``, ``float``, ``str``, ``bool``, a ``Literal``, or a tuple of one of them
        for an option that may be given more than once.
    default
        The default, or ``dataclasses.MISSING``.
    help
        One line for the command's help.
    """

    name: str
    option: str
    kind: Any
    default: Any
    help: str


def settings_of(config: type[Any]) -> Iterator[Setting]:
    """The settings of a configuration, in order."""
    kinds = get_type_hints(config)
    for of_field in fields(config):
        metadata = _inherited(config, of_field.name)
        if metadata is not None:
            option = metadata[_OPTION] or of_field.name.replace("_", "-")
            yield Setting(
                of_field.name, option, kinds[of_field.name], of_field.default, metadata[_HELP]
            )


def _inherited(config: type[Any], name: str) -> Any:
    """What ``setting`` said of a field, in the class or in a class that it inherits from."""
    for base in config.__mro__:
        declared = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if declared is not None and _HELP in declared.metadata:
            return declared.metadata
    return None
