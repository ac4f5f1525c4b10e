"""Keys and self-signed certificates, by which host and agent know each other. No authority signs them: both sides pin.

Nothing but the fingerprint is trusted, so the dates say nothing: a certificate is valid from 1970, which is what the
clock of a board without a battery begins with, to the end of 9999, which RFC 5280 (4.1.2.5) has for "no end".
"""

import hashlib
import re
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hardware_profiles.held import locked
from hardware_profiles.store import write_atomic
from spaces.errors import BadInput

OWNER_ONLY = 0o600  # the permissions of what is secret
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_FROM, _UNTIL = datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
_LEAF_ONLY = {
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One side's own key (mode 0600) and certificate, both PEM files, and the certificate's fingerprint."""

    key: Path
    certificate: Path
    fingerprint: str

    @property
    def pem(self) -> str:
        """The certificate's text, which the other side pins."""
        return self.certificate.read_text(encoding="ascii")


def identity_in(folder: Path, owner: str) -> Identity:
    """The identity kept in ``folder``; made there, named after ``owner``, when there is none yet.

    The certificate is written after its key, so a kill between the two leaves a key that is made anew.

    Raises:
        BadInput: a file there is no certificate, or no key of it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    with locked(folder / "lock", exclusive=True):
        if not (key.exists() and certificate.exists()):
            key_pem, certificate_pem = make(owner)
            write_atomic(key, key_pem, OWNER_ONLY)
            write_atomic(certificate, certificate_pem)
    try:
        der = der_of(certificate.read_text(encoding="ascii"))
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ValueError:
        raise BadInput(f"{certificate} is no certificate; remove {folder} and pair again.") from None
    except ssl.SSLError:
        raise BadInput(f"{key} is not the key of {certificate}; remove {folder} and pair again.") from None
    return Identity(key=key, certificate=certificate, fingerprint=fingerprint(der))


def make(owner: str) -> tuple[str, str]:
    """A new private key on P-256 (PKCS 8) and its self-signed certificate, both PEM.

    The name holds part of the key's digest: OpenSSL looks trusted certificates up by name, so each needs its own.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    subject_id = x509.SubjectKeyIdentifier.from_public_key(public)
    label = f"{owner[:40]} {subject_id.digest.hex()[:16]}"  # 64 characters are the most that RFC 5280 allows
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **_LEAF_ONLY), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(subject_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_id), critical=False)
        .sign(private, hashes.SHA256())
    )
    encoded = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode(), pem_of(certificate.public_bytes(serialization.Encoding.DER))


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate's DER, 64 hexadecimal digits: what both sides pin."""
    return hashlib.sha256(der).hexdigest()


def der_of(pem: str) -> bytes:
    """The DER of the first certificate in a PEM text.

    Raises:
        ValueError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    except (ValueError, x509.InvalidVersion):
        raise ValueError("the certificate is none in PEM form (RFC 7468)") from None


def pem_of(der: bytes) -> str:
    """A certificate's DER as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()
