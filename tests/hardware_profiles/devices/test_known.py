import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.certificates import der_of, fingerprint, make
from hardware_profiles.devices import known_names
from hardware_profiles.devices.known import (
    KnownDevice,
    check_free,
    find,
    forget,
    home,
    host_identity,
    parse_address,
    remember,
)  # fmt: skip
from spaces.errors import BadInput


def device(name: str = "bench") -> KnownDevice:
    certificate = make("agent")[1]
    return KnownDevice(
        name=name,
        address="192.0.2.1:7433",
        certificate=certificate,
        fingerprint=fingerprint(der_of(certificate)),
        paired="2026-01-01T00:00:00+00:00",
    )


def test_a_device_is_found_as_it_was_remembered_until_it_is_forgotten(config: Path) -> None:
    remember(one := device())
    remember(device("Cell_2-b"))
    assert find("bench") == one
    assert known_names() == ("local", "Cell_2-b", "bench")
    with pytest.raises(BadInput, match="paired already"):
        check_free("bench")
    forget("bench")
    assert known_names() == ("local", "Cell_2-b")
    with pytest.raises(BadInput, match=r"no device is called 'bench'; use one of local, Cell_2-b"):
        find("bench")


def test_files_are_the_users_own(config: Path) -> None:
    remember(device())
    own = host_identity()
    assert home() == config / "vlmfront"
    for path in (home() / "devices" / "bench.json", own.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((home() / "devices").stat().st_mode) == 0o700
    assert host_identity().fingerprint == own.fingerprint


@pytest.mark.parametrize("name", ["", "local", "a" * 41, "a b", "../x", "ä", "a.b", "x\n"])
def test_what_is_no_name_is_refused(config: Path, name: str) -> None:
    for refuse in (find, forget, check_free):
        with pytest.raises(BadInput, match="name"):
            refuse(name)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[:40], "JSON"),
        (lambda text: text.replace('"address"', '"addres"'), "address"),
        (lambda text: text.replace("BEGIN", "BEGUN"), "PEM"),
        (lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'), "fingerprint"),
    ],
)
def test_a_damaged_file_is_named(config: Path, damage, why: str) -> None:  # type: ignore[no-untyped-def]
    remember(device())
    path = home() / "devices" / "bench.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadInput, match=rf"bench\.json is damaged .*{why}"):
        find("bench")


def test_addresses() -> None:
    assert parse_address("pi.local") == "pi.local:7433"
    assert parse_address("192.0.2.7:80") == "192.0.2.7:80"
    assert parse_address("[::1]:9") == "[::1]:9"
    assert parse_address("[fe80::1%eth0]") == "[fe80::1%eth0]:7433"
    for wrong in (
        "",
        ":1",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "a/b:1",
        "user@host:1",
        "::1",
        "host:1:2",
        "h\n:1",
    ):
        with pytest.raises(BadInput, match="HOST:PORT"):
            parse_address(wrong)


@given(st.text(max_size=30))
def test_an_address_is_full_or_refused(text: str) -> None:
    try:
        full = parse_address(text)
    except BadInput:
        return
    assert parse_address(full) == full
