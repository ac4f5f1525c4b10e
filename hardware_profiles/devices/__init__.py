"""The host's side of the wire: which devices are known, and how a search gets hold of one.

``local`` is an agent on this machine that is started for the search; every other name was paired by
``vlmfront device add``. All of them are spoken to in the same way.
"""

from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from uuid import NAMESPACE_URL, uuid4, uuid5

from hardware_profiles.agent.facts import boot_id
from hardware_profiles.devices.connection import PATIENCE_S, Connection, Patience, pinned
from hardware_profiles.devices.hello import say_hello
from hardware_profiles.devices.known import LOCAL, find, host_identity, paired_names
from hardware_profiles.devices.lease import DeviceLease
from hardware_profiles.devices.loopback import LocalAgent
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.profile import profile_of


def known_names() -> tuple[str, ...]:
    """Every name that ``open_device`` takes: ``local``, then the paired ones."""
    return (LOCAL, *paired_names())


def open_device(
    name: str,
    *,
    cancel: Event,
    waiting: Callable[[str], None] = lambda _: None,
    owner: str = "",
    patience_s: float | None = None,
    opening_s: float | None = None,
    queues: bool = True,
    interrupted: Callable[[str], None] = lambda _: None,
) -> RemoteDevice:
    """The device of this name, once its lease is ours: others may be before us, which ``waiting`` hears.

    ``owner`` is the id of the run: who opens a device again with the same one, after having been killed, finds its
    lease and its jobs again, as `hardware_profiles.devices.remote` has it; empty: nobody will. ``patience_s`` is how
    long calls are made again, now and later, before the device counts as lost, ``PATIENCE_S`` if null; ``opening_s``
    takes its place now. ``queues``: a device that others have is waited for to the end, else no longer than that.
    ``interrupted`` hears of what the device recovered from: a silence, the loss of a job.

    Raises:
        BadInput: the name is unknown, or the device speaks no protocol of ours.
        JobFailed: ``DEVICE_LOST``, it does not answer or no longer knows this host.
        Cancelled: the event was set.
    """
    limit_s = PATIENCE_S if patience_s is None else patience_s
    now_s = limit_s if opening_s is None else opening_s
    patience = Patience(name, cancel=cancel, waiting=waiting, limit_s=now_s, queues=queues)
    with ExitStack() as opened:
        agent = None
        if name == LOCAL:
            agent = LocalAgent()
            opened.callback(agent.close)
            address, context = agent.address, pinned(agent.certificate, agent.identity)
        else:
            known = find(name)
            address, context = known.address, pinned(known.certificate, host_identity())
        connection = opened.enter_context(Connection(name, address, context))
        hello = say_hello(connection, patience)
        own = uuid5(NAMESPACE_URL, f"vlmfront:{owner}") if owner else uuid4()
        lease = DeviceLease(connection, uuid5(own, "lease"))
        opened.callback(lease.close)
        lease.epoch(patience)
        device = RemoteDevice(
            name=name,
            here=hello.boot_id == boot_id(),
            profile=profile_of(hello.facts),
            hello=hello,
            connection=connection,
            lease=lease,
            owner=own,
            agent=agent,
            patience_s=limit_s,
            queues=queues,
            interrupted=interrupted,
        )
        opened.pop_all()  # the device closes them from here on
    return device
