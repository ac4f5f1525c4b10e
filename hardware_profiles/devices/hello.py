"""Whether host and agent fit together: said before anything is sent, naming both versions."""

from importlib import metadata

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.facts import runtimes
from hardware_profiles.devices.connection import Connection, Patience, refusal
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import PROTOCOLS, Hello
from spaces.errors import BadInput

_WRITE_FILES = frozenset({"openvino"})  # runtimes whose files are in a format of their own


def say_hello(connection: Connection, patience: Patience) -> Hello:
    """What the agent says of itself.

    Raises:
        BadInput: it speaks no protocol of ours.
        JobFailed, Cancelled: as `hardware_profiles.devices.connection.Connection.call`.
    """
    try:
        answer = connection.call(patience, "GET", "/v1/hello")
    except Refused as error:
        raise refusal(connection.name, error) from error
    hello = connection.read(Hello, answer.body)
    check_protocol(connection.name, hello)
    return hello


def check_protocol(name: str, hello: Hello) -> None:
    """Refuse an agent that speaks no version of the protocol that this host speaks.

    Raises:
        BadInput: naming both ranges and both versions of vlmfront.
    """
    (least, most), (theirs, newest) = PROTOCOLS, hello.protocols
    if newest < least or most < theirs:
        raise BadInput(
            f"{name} speaks protocol {_range(theirs, newest)} (vlmfront {hello.agent}), this host "
            f"{_range(least, most)} (vlmfront {metadata.version('vlmfront')}); install one version of vlmfront on both."
        )


def check_runtime(name: str, hello: Hello, runtime: str) -> None:
    """Refuse a bundle whose runtime the device does not have, or has too old for the files that this host makes.

    An older OpenVINO may not know operations of a graph that a newer one wrote; a newer one reads it. Versions are
    compared by their first two numbers. A torch bundle is a plain checkpoint, which hangs on no version of torch.

    Raises:
        JobFailed: ``INVALID_INPUT``, naming both versions.
    """
    theirs = hello.runtimes.get(runtime)
    if theirs is None:
        installed = ", ".join(f"{one} {number}" for one, number in sorted(hello.runtimes.items())) or "none"
        raise JobFailed("INVALID_INPUT", f"the bundle needs the runtime {runtime!r}; {name} has {installed}")
    ours = runtimes().get(runtime) if runtime in _WRITE_FILES else None
    if ours and _first_two(theirs) < _first_two(ours):
        raise JobFailed(
            "INVALID_INPUT",
            f"{name} has {runtime} {theirs}, older than the {ours} of this host; install {ours} there",
        )


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _first_two(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
