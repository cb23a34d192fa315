"""The tensors of a model as a tree in which equal layers are folded into one line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.tensors.tensor import Tensor


@dataclass
class Node:
    """A module, a tensor, or several equal modules that differ only in their number.

    Attributes:
        name: Last part of its name; ``"0 .. 29"`` for a folded range.
        count: Number of equal modules that it stands for.
        dtype: Element type of a tensor; empty for a module.
        shape: Shape of a tensor.
        nbytes: Bytes of the tensors in it, all ``count`` together.
        tensors: Number of tensors in it, all ``count`` together.
        children: Parts of a module.
    """

    name: str
    count: int = 1
    dtype: str = ""
    shape: tuple[int, ...] = ()
    nbytes: int = 0
    tensors: int = 0
    children: list[Node] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        if self.dtype:
            return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "bytes": self.nbytes}
        return {
            "name": self.name,
            "count": self.count,
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "children": [child.to_dict() for child in self.children],
        }


def fold(tensors: Mapping[str, Tensor]) -> Node:
    """Return the tree of a model's tensors.

    Args:
        tensors: By names with dots.

    Returns:
        The root, without a name. Neighbouring modules become one node when their names are consecutive numbers and
        their parts match in names, dtypes and shapes.
    """
    nested: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *modules, last = name.split(".")
        place = nested
        for module in modules:
            place = place.setdefault(f"{module}.", {})
        place[last] = tensor
    return _build("", nested)


def _build(name: str, value: Any) -> Node:
    if not isinstance(value, dict):
        return Node(name, dtype=value.dtype.name, shape=value.shape, nbytes=value.nbytes, tensors=1)
    children = _fold_equal([_build(key.rstrip("."), item) for key, item in value.items()])
    return Node(
        name,
        nbytes=sum(child.nbytes for child in children),
        tensors=sum(child.tensors for child in children),
        children=children,
    )


def _fold_equal(nodes: list[Node]) -> list[Node]:
    folded: list[Node] = []
    for node in nodes:
        last = folded[-1] if folded else None
        if last is not None and _continues(last, node):
            first = last.name.partition(" ")[0]
            last.name = f"{first} .. {node.name}"
            last.count += 1
            _grow(last, node)
        else:
            folded.append(node)
    return folded


def _continues(last: Node, node: Node) -> bool:
    numbers = re.fullmatch(r"(?:\d+ \.\. )?(\d+)", last.name)
    if numbers is None or not node.name.isdigit() or int(node.name) != int(numbers[1]) + 1:
        return False
    return not node.dtype and _signature(last) == _signature(node)


def _signature(node: Node) -> Any:
    return (node.dtype, node.shape, [(child.name, _signature(child)) for child in node.children])


def _grow(folded: Node, node: Node) -> None:
    """Add the sizes of a node to those of the folded one that stands for it, down to the leaves."""
    folded.nbytes += node.nbytes
    folded.tensors += node.tensors
    for mine, other in zip(folded.children, node.children, strict=True):
        _grow(mine, other)
