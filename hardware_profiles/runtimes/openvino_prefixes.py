"""What is worth keeping between questions with examples: beginnings that they share, and images that come again."""

from collections import OrderedDict
from collections.abc import Sequence

from hardware_profiles.runtimes import Example
from hardware_profiles.runtimes.chat import check_length, turns
from hardware_profiles.runtimes.openvino_graphs import Floats, Graphs, Prefix
from spaces.exemplars import pixel_digest
from spaces.fitting import Fit, fitted
from spaces.images import Pixels

PREFIXES = 8
"""Beginnings that are held, at most: each is as large as the keys and values of its tokens, in f32."""

_SEEN_BYTES = 64 << 20


class Prefixes:
    """The language model's state behind the turns of examples, least recently used ones dropped first."""

    def __init__(self, graphs: Graphs, fit: Fit, most: int = PREFIXES) -> None:
        self._graphs = graphs
        self._fit = fit
        self._most = most
        self._held: OrderedDict[tuple[Example, ...], Prefix] = OrderedDict()

    def __contains__(self, examples: tuple[Example, ...]) -> bool:
        return examples in self._held

    def get(self, examples: tuple[Example, ...]) -> Prefix:
        """The state behind these examples, made where it is not held. Ask it whether a prompt really begins so.

        Raises:
            BadInput: the model has fewer positions than the examples take.
        """
        if examples in self._held:
            self._held.move_to_end(examples)
            return self._held[examples]
        ids = self._graphs.tokens([turns(examples)], ask=False)[0]
        visual = self._graphs.see([fitted(example.image_HWC, self._fit) for example in examples])
        check_length(len(ids) + (self._graphs.visual_tokens - 1) * len(examples), self._graphs.positions)
        self._held[examples] = self._graphs.prefix(ids, visual)
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return self._held[examples]


class SeenImages:
    """Visual tokens of images, each computed once while they fit into 64 MiB. For scoring: it is never timed."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._known: dict[str, Floats] = {}

    def __call__(self, images: Sequence[Pixels]) -> list[Floats]:
        """Visual tokens (V, D) of each fitted image."""
        keys = [pixel_digest(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if new:
            found = dict(zip(new, self._graphs.see(list(new.values())), strict=True))
            if sum(one.nbytes for one in (*self._known.values(), *found.values())) > _SEEN_BYTES:
                self._known = {key: self._known[key] for key in keys if key in self._known}
            self._known |= found
        return [self._known[key] for key in keys]
