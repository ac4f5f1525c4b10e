"""YAML as vlmfront reads it: plain values only, each key once, and never more of it than was written down."""

from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 20_000
MOST_DEPTH = 50
# what the constructors of numbers, dates and explicit tags raise for a text that is none
_NO_SUCH_VALUE = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, and a document that is too large or too deep, while it reads."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        if self._values > MOST_VALUES or self._depth > MOST_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _too_much(event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int):
                float(value)  # limits and costs are compared as such
            return value
        except _NO_SUCH_VALUE:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{node.value!r} is no {kind}; put it in quotes", problem_mark=node.start_mark
            ) from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is no YAML of plain values; a key stands twice; with its aliases written out it has more than
            ``MOST_VALUES`` values or is nested deeper than ``MOST_DEPTH``, or an alias stands inside what it names.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has more than {MOST_CHARACTERS:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    finally:
        loader.dispose()


def _too_much(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(
        problem=f"it has more than {MOST_VALUES:,} values or {MOST_DEPTH} levels", problem_mark=mark
    )


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node has, and how many levels, with aliases written out; zeros while it is being measured."""
    if id(node) in known:
        if known[id(node)] == (0, 0):
            raise yaml.MarkedYAMLError(problem="an alias stands inside of what it names", problem_mark=node.start_mark)
        return known[id(node)]
    known[id(node)] = 0, 0
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= character <= "\udfff" for character in node.value):
        raise yaml.MarkedYAMLError(problem="half a character (a lone surrogate)", problem_mark=node.start_mark)
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    measured = [_measure(part, known) for part in parts]
    values = 1 + sum(count for count, _ in measured)
    levels = 1 + max((depth for _, depth in measured), default=0)
    if values > MOST_VALUES or levels > MOST_DEPTH:
        raise _too_much(node.start_mark)
    known[id(node)] = values, levels
    return values, levels
