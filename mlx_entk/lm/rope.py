"""Rotary positions: whether a module of mlx-lm rotates as its configuration says.

Versions of transformers write their fields under different names, and mlx-lm takes a default for
what it does not find, which changes every logit and raises nothing.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.nn as nn

from mlx_entk.errors import InputError

# Fields of a configuration that hold a base.
_BASES = ("rope_theta", "rope_local_base_freq", "rotary_emb_base", "global_rope_theta")


def rope_changes(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What to add to a configuration so that mlx-lm finds its rotary fields.

    Parameters
    ----------
    configuration
        As ``config.json`` holds it; ``rope_parameters`` is what transformers 5 writes.

    Returns
    -------
    dict
        Fields of the names that earlier versions used, where those are missing.
    """
    changes: dict[str, Any] = {}
    text = configuration.get("text_config")
    if isinstance(text, Mapping) and (inner := rope_changes(text)):
        changes["text_config"] = {**text, **inner}
    parameters = configuration.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return changes
    local = parameters.get("sliding_attention")
    full = parameters.get("full_attention", parameters)
    if isinstance(local, Mapping) and "rope_theta" in local:
        changes["rope_local_base_freq"] = local["rope_theta"]
    if isinstance(full, Mapping):
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in full:
                changes[name] = full[name]
        if full.get("rope_type", "default") != "default":
            changes["rope_scaling"] = dict(full)
    missing = {name for name in changes if configuration.get(name) is None}
    return {k: v for k, v in changes.items() if k in missing or k == "text_config"}


def require_rope(module: nn.Module, configuration: Mapping[str, Any], source: str) -> None:
    """Refuse a module whose rotary positions are not those of its configuration.

    Bases are compared where the module rotates without a rule for long contexts, and where the
    configuration names such a rule, the module must have one.

    Parameters
    ----------
    module
        The module of mlx-lm.
    configuration
        As ``config.json`` holds it.
    source
        Where the model comes from, for the message.

    Raises
    ------
    InputError
        If they differ.
    """
    rotations = [
        part for _, part in module.named_modules() if "rope" in type(part).__name__.lower()
    ]
    plain = [part for part in rotations if isinstance(part, nn.RoPE)]
    said = set(_bases(configuration))
    used = {float(part.base) for part in plain}
    unknown = [base for base in used if not any(math.isclose(base, other) for other in said)]
    if said and unknown:
        raise InputError(
            f"mlx-lm rotates the positions of {source} with the base {unknown[0]:g}, but its "
            f"configuration says {', '.join(f'{base:g}' for base in sorted(said))}"
        )
    flat = [configuration, configuration.get("text_config")]
    for part in flat:
        parameters = part.get("rope_parameters") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(parameters, Mapping):
            continue
        bases = [part.get("rope_theta"), parameters.get("rope_theta")]
        if None not in bases and bases[0] != bases[1]:
            raise InputError(
                f"the configuration of {source} says two bases of rotary positions, {bases[0]} "
                f"and {bases[1]}"
            )
    scaled = len(plain) < len(rotations) or any(part.scale != 1 for part in plain)
    rules = {rule for part in flat for rule in _rules(part)}
    if rotations and rules and not scaled:
        raise InputError(
            f"the configuration of {source} scales rotary positions ({', '.join(sorted(rules))}), "
            "which mlx-lm does not do for it"
        )


def _bases(configuration: Any) -> Iterator[float]:
    """Every base of rotary positions that a configuration names."""
    if isinstance(configuration, Mapping):
        for name, value in configuration.items():
            if name in _BASES and isinstance(value, int | float):
                yield float(value)
            elif name in ("text_config", "rope_parameters") or name.endswith("_attention"):
                yield from _bases(value)


def _rules(configuration: Any) -> Iterator[str]:
    """The rules for long contexts that a configuration names."""
    if not isinstance(configuration, Mapping):
        return
    for name in ("rope_scaling", "rope_parameters"):
        parameters = configuration.get(name)
        if isinstance(parameters, Mapping):
            rule = parameters.get("rope_type", parameters.get("type", "default"))
            # Positions in text are the same in each part of mrope.
            if rule not in ("default", "mrope"):
                yield str(rule)
