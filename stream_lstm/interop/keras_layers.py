"""The layers of a Keras model as one chain, in the order in which data pass through them.

A `Sequential` model is a chain as it stands. A functional model is one where every layer is used
once and has one input. Anything else has no place in this network, and the layer is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError


class Layer(NamedTuple):
    """A layer: its class, its name and its settings; `k` counts the layers of its class from 0."""

    kind: str
    name: str
    config: dict[str, Any]
    k: int

    def __str__(self) -> str:
        return f"{self.kind} layer {self.name!r}"


def chain(path: Path, config: dict[str, Any]) -> list[Layer]:
    """Return the layers of a model in order; DataError where they are no chain."""
    kind, body = config.get("class_name"), config.get("config")
    entries = body.get("layers") if isinstance(body, dict) else body  # a list in Keras 2.0 to 2.2
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(entries, list):
        raise DataError(
            f"{path} holds a {kind}, which is not a Sequential or functional model of layers"
        )
    layers: list[Layer] = []
    for entry in entries:
        name = str(entry["config"].get("name", entry.get("name", "")))
        own = str(entry.get("registered_name"))  # "PACKAGE>CLASS" for a class of the user's
        layer_kind = own if ">" in own else str(entry["class_name"])
        k = sum(layer.kind == layer_kind for layer in layers)
        layers.append(Layer(layer_kind, name, entry["config"], k))
    if kind == "Sequential":
        return layers
    outputs = body.get("output_layers", []) if isinstance(body, dict) else []
    if sum(1 for _ in _histories(outputs)) > 1:
        raise DataError(f"{path}: the model has several outputs; only one can be taken over")
    sources = {
        str(entry.get("name", layer.name)): _source(path, layer, entry)
        for layer, entry in zip(layers, entries, strict=True)
    }
    return _ordered(path, {layer.name: layer for layer in layers}, sources)


def _source(path: Path, layer: Layer, entry: dict[str, Any]) -> str | None:
    """Return the name of the layer whose output this one takes; None for an input."""
    nodes = entry.get("inbound_nodes", [])
    names = list(_histories(nodes))
    if not nodes and layer.kind == "InputLayer":
        return None
    if len(nodes) != 1 or len(names) != 1:
        raise DataError(
            f"{path}: the {layer} takes {len(names)} inputs in {len(nodes)} places; only a plain "
            "chain of layers can be taken over"
        )
    return names[0]


def _histories(value: Any) -> Iterator[str]:
    """Yield the names of layers that a record of inputs refers to, in the forms of Keras 2, 3."""
    if isinstance(value, dict):
        if "keras_history" in value:
            yield str(value["keras_history"][0])
            return
        for part in value.values():
            yield from _histories(part)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and value[1:3] == [int(value[1]), 0]:
            yield value[0]
            value = value[3:]
        for part in value:
            yield from _histories(part)


def _ordered(path: Path, layers: dict[str, Layer], sources: dict[str, str | None]) -> list[Layer]:
    followers = {source: name for name, source in sources.items()}
    order: list[Layer] = []
    name = followers.get(None)
    while name is not None and len(order) < len(layers):
        order.append(layers[name])
        name = followers.get(name)
    if len(order) != len(layers) or len(followers) != len(layers):
        raise DataError(f"{path}: its layers branch; only a plain chain can be taken over")
    return order
