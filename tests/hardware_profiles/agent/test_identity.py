import errno
import json
import stat
import threading
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hardware_profiles.agent import audit
from hardware_profiles.agent.identity import TOKEN_S, Host, Paired, Tokens
from hardware_profiles.certificates import FINGERPRINT, der_of, identity_in, make
from spaces.errors import BadInput

CERTIFICATE = "a" * 64


def test_an_identity_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    made = identity_in(tmp_path / "identity", "agent")
    assert identity_in(tmp_path / "identity", "another name") == made
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.key.parent.stat().st_mode) == 0o700
    certificate = x509.load_pem_x509_certificate(made.pem.encode())
    key = serialization.load_pem_private_key(made.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert key.public_key() == certificate.public_key()
    assert certificate.fingerprint(hashes.SHA256()).hex() == made.fingerprint
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_before_utc <= datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    assert certificate.not_valid_after_utc.year == 9999


def test_a_disk_that_fails_leaves_no_private_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left") as failed:
            identity_in(tmp_path / "identity", "agent")
    assert failed.value.filename == str(tmp_path / "identity" / "key.pem")
    assert [path.name for path in (tmp_path / "identity").iterdir()] == ["lock"]


def test_processes_that_begin_at_once_make_one_identity(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(identity_in(tmp_path / "identity", "agent").fingerprint))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_kill_between_key_and_certificate_leaves_nothing_that_does_not_fit(tmp_path: Path) -> None:
    made = identity_in(tmp_path, "agent")
    made.certificate.unlink()
    again = identity_in(tmp_path, "agent")
    assert again.fingerprint != made.fingerprint
    key = serialization.load_pem_private_key(again.key.read_bytes(), password=None)
    assert key.public_key() == x509.load_pem_x509_certificate(again.pem.encode()).public_key()


def test_a_damaged_certificate_is_named_with_its_cure(tmp_path: Path) -> None:
    identity_in(tmp_path, "agent").certificate.write_text("nothing")
    with pytest.raises(BadInput, match=r"certificate\.pem is no certificate; remove"):
        identity_in(tmp_path, "agent")


def test_a_key_that_is_damaged_or_another_ones_is_named_with_its_cure(tmp_path: Path) -> None:
    own, other = identity_in(tmp_path / "own", "agent"), identity_in(tmp_path / "other", "agent")
    for content in ("nothing", other.key.read_text()):
        own.key.write_text(content)
        with pytest.raises(BadInput, match=r"key\.pem is not the key of .*certificate\.pem; remove"):
            identity_in(tmp_path / "own", "agent")


def test_a_token_is_valid_once_also_over_a_restart(tmp_path: Path) -> None:
    token = Tokens(tmp_path).mint(CERTIFICATE)
    certificate, _, secret = token.partition("::")
    assert (certificate, len(secret)) == (CERTIFICATE, 43)  # 32 bytes in base64url
    assert not any(secret in path.read_text() for path in tmp_path.rglob("*.json"))
    assert not Tokens(tmp_path).redeem(secret + "x")
    assert not Tokens(tmp_path).redeem("")
    assert not Tokens(tmp_path).redeem("../../\ud800")
    assert Tokens(tmp_path).redeem(secret)
    assert not Tokens(tmp_path).redeem(secret)


def test_a_token_expires_and_does_not_outlive_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    tokens = Tokens(tmp_path, now=lambda: now[0])
    secrets = [tokens.mint(CERTIFICATE).partition("::")[2] for _ in range(3)]
    now[0] = 100.0 + TOKEN_S - 0.01
    assert tokens.redeem(secrets[0])
    now[0] = 100.0 + TOKEN_S
    assert not tokens.redeem(secrets[1])
    now[0] = 200.0
    assert not tokens.redeem(secrets[1])  # it was used up by that try
    monkeypatch.setattr("hardware_profiles.agent.identity.boot_id", lambda: "another boot")
    assert not tokens.redeem(secrets[2])
    now[0] = 0.0
    tokens.mint(CERTIFICATE)
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_of_many_that_redeem_at_once_one_succeeds(tmp_path: Path) -> None:
    secret = Tokens(tmp_path).mint(CERTIFICATE).partition("::")[2]
    tokens, barrier, won = Tokens(tmp_path), threading.Barrier(8), []

    def redeem() -> None:
        barrier.wait()
        won.append(tokens.redeem(secret))

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_paired_hosts_are_kept_listed_and_removed_by_name(tmp_path: Path) -> None:
    pems = [make(name)[1] for name in ("a", "b", "c")]
    first, second, third = (
        Paired(tmp_path).add(name, pem) for name, pem in zip(("lab", "lab", "desk"), pems, strict=True)
    )
    paired = Paired(tmp_path)
    assert {peer: host.name for peer, host in paired.hosts().items()} == {first: "lab", second: "lab", third: "desk"}
    assert der_of(paired.hosts()[first].certificate) == der_of(pems[0])
    assert paired.knows(first)
    assert not paired.knows("b" * 64)
    assert not paired.knows("")
    assert not paired.knows("../" + first)
    assert (paired.remove("lab"), paired.remove("lab"), paired.remove("nobody")) == (2, 0, 0)
    assert (Paired(tmp_path).knows(first), Paired(tmp_path).knows(third)) == (False, True)


def test_to_look_for_paired_hosts_makes_nothing(tmp_path: Path) -> None:
    paired = Paired(tmp_path / "state")
    assert (paired.hosts(), paired.knows("a" * 64), paired.remove("lab")) == ({}, False, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\n", "-a", "a" * 65, "ä"])
def test_a_name_that_could_be_more_than_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        Paired(tmp_path).add(name, make("a")[1])
    assert Paired(tmp_path).hosts() == {}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"name": "x"}', b"swapped"])
def test_a_damaged_pairing_is_named_with_its_cure(tmp_path: Path, damage: bytes) -> None:
    paired = Paired(tmp_path)
    peer = paired.add("lab", make("a")[1])
    path = tmp_path / "paired" / f"{peer}.json"
    other = json.dumps({"name": "lab", "certificate": make("b")[1], "since": ""}).encode()
    path.write_bytes(other if damage == b"swapped" else damage)
    with pytest.raises(BadInput, match=r"is no paired host .*remove it and pair that host again"):
        paired.hosts()


def test_the_audit_log_is_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 2000)
    for number in range(100):
        audit.note(tmp_path, "not paired", peer="10.0.0.1", detail=f"{number}\n\x1b[2J" + "x" * 1000)
    files = sorted(tmp_path.glob("audit*.jsonl"))
    assert [path.name for path in files] == ["audit.1.jsonl", "audit.jsonl"]
    assert all(path.stat().st_size <= 2000 for path in files)
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    numbers = [int(line["detail"].split()[0]) for line in lines]
    assert numbers == list(range(100 - len(lines), 100))
    assert all(set(line) == {"time", "peer", "event", "detail"} and "\x1b" not in line["detail"] for line in lines)
    assert datetime.fromisoformat(lines[-1]["time"]).tzinfo


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    audit.note(tmp_path, "paired", peer="10.0.0.1")
    assert "audit.jsonl cannot be written" in capsys.readouterr().err


def test_a_fingerprint_is_all_that_names_a_file() -> None:
    assert FINGERPRINT.fullmatch("0" * 64)
    assert not any(FINGERPRINT.fullmatch(text) for text in ("0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n"))
    assert Host(name="a", certificate="b", since="c").name == "a"
