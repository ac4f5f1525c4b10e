"""The peers by name; a peer's package is imported only when that peer is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from replay.charging import Rule
from replay.engine import Engine, Ground


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How a peer is made, and how far it is replayed.

    Attributes:
        maker: module and function in this folder.
        seeds: fewer for a peer that takes seconds for a suggestion.
        trials: after which a replay ends, at the cost that it then has.
        lock: of the environment that holds its package, in benchmarks/.
    """

    maker: str
    seeds: int = 20
    trials: int = 600
    lock: str = "peers.lock"

    def make(self, ground: Ground, seed: int, rule: Rule) -> Engine:  # noqa: ARG002
        """A fresh engine; no peer looks at costs, so none asks for the rule.

        Raises:
            PeerMissing: its package is not in this environment.
        """
        module, function = self.maker.split(":")
        engine: Engine = getattr(import_module(f"replay.peers.{module}"), function)(ground, seed)
        return engine


PEERS: Mapping[str, Peer] = {
    "optuna_tpe": Peer(maker="optuna_study:tpe"),
    "optuna_nsga2": Peer(maker="optuna_study:nsga2", trials=2000),
    "optuna_gp": Peer(maker="optuna_study:gp", seeds=5, trials=200),
    "optuna_auto": Peer(maker="optuna_study:auto"),
    "syne_evolution": Peer(maker="syne:evolution", trials=2000),
    "syne_moasha": Peer(maker="syne:moasha"),
    "syne_ehvi": Peer(maker="syne:ehvi", seeds=5, trials=120),
    "neps_primo": Peer(maker="neps_primo:primo", seeds=5, trials=120, lock="peers-neps.lock"),
    "ax": Peer(maker="ax_client:ax", seeds=5, trials=120),
    "botorch_nehvi": Peer(maker="botorch_nehvi:nehvi", seeds=5, trials=120),
}
