"""The peers by name; a peer's package is imported only when that peer is made."""

from importlib import import_module

from replay.engine import Engine, Ground

PEERS = {
    "random": "random_search:random_search",
    "optuna_tpe": "optuna_study:tpe",
    "optuna_nsga2": "optuna_study:nsga2",
    "optuna_gp": "optuna_study:gp",
    "optuna_auto": "optuna_study:auto",
    "syne_evolution": "syne:evolution",
    "syne_moasha": "syne:moasha",
    "syne_ehvi": "syne:ehvi",
    "neps_primo": "neps_primo:primo",
    "ax": "ax_client:ax",
    "botorch_nehvi": "botorch_nehvi:nehvi",
}


def make(name: str, ground: Ground, seed: int) -> Engine:
    """A peer ready to be replayed.

    Raises:
        PeerMissing: its package is not in this environment.
    """
    module, function = PEERS[name].split(":")
    engine: Engine = getattr(import_module(f"replay.peers.{module}"), function)(ground, seed)
    return engine
