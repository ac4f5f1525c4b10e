"""The engines that are compared, by name. A new one is a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from replay.charging import Rule
from replay.engine import Engine, Ground
from replay.listing import exhaustive, shuffled
from replay.ours import Ours
from replay.peers.catalog import PEERS
from replay.table import Table

OURS = "vlmfront"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One engine of the comparison.

    Attributes:
        make: a fresh engine for what may be known of a table, a seed, and the rule that it will be charged by; raises
            ImportError where its package is missing.
        kind: ``ours``; a ``peer``, which ours is compared with, and whose replays are recorded; a ``variant`` of ours;
            or a ``reference``, shown beside the others.
        seeds: how many seeds it is worth at most; fewer for engines that take long.
        view: the table as this engine gets to see it, by the seed: renamed, or without hints.
    """

    make: Callable[[Ground, int, Rule], Engine]
    kind: Literal["ours", "peer", "variant", "reference"]
    seeds: int = 20
    view: Callable[[Table, int], Table] | None = None


def ours(ground: Ground, seed: int, rule: Rule) -> Engine:
    """Our engine, which is told whether stages that were paid once are free."""
    return Ours(ground, seed, reuse=rule == "cached")


ENGINES: dict[str, Entry] = {
    OURS: Entry(make=ours, kind="ours"),
    "exhaustive": Entry(make=exhaustive, kind="reference", seeds=1),
    "random": Entry(make=shuffled, kind="peer"),
} | {name: Entry(make=peer.make, kind="peer", seeds=peer.seeds) for name, peer in PEERS.items()}
