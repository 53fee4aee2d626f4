"""The certificate to serve HTTPS with: one that is given, or one made here and kept in the data folder."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from converter.errors import AnemoneError

#: Days; Apple's systems trust no certificate that is good for more than 825.
_GOOD_FOR = 800
_RENEWED_BEFORE = 30


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as PEM files.

    fingerprint: SHA-256 of the certificate, as browsers show it; what tells its owner that it is this one.
    """

    cert: Path
    key: Path
    fingerprint: str


def given_certificate(cert: Path, key: Path) -> Certificate:
    """The certificate in these files. Raises AnemoneError where they cannot be used."""
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        # An encrypted key would have OpenSSL ask for its password in the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=b"")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise AnemoneError(
            f"the certificate {cert} cannot be used with the key {key}: {error}; accepted: PEM, the key not encrypted"
        ) from error
    return Certificate(cert, key, _fingerprint(found))


def own_certificate(data_dir: Path, names: Iterable[str]) -> Certificate:
    """The certificate made for ``names`` (host names and addresses).

    It is made anew where there is none, where it ends within thirty days, and where it lacks one of the names.
    """
    folder = data_dir / "tls"
    cert, key = folder / "cert.pem", folder / "key.pem"
    wanted = _alternatives(names)
    found = _kept(cert, key)
    if found is None or not wanted <= _covered(found) or _ends(found) < _now() + datetime.timedelta(_RENEWED_BEFORE):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = _make(cert, key, wanted)
    return Certificate(cert, key, _fingerprint(found))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _ends(found: x509.Certificate) -> datetime.datetime:
    return found.not_valid_after_utc


def _fingerprint(found: x509.Certificate) -> str:
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _alternatives(names: Iterable[str]) -> set[x509.GeneralName]:
    found: set[x509.GeneralName] = set()
    for name in names:
        try:
            found.add(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.add(x509.DNSName(name))
    return found


def _kept(cert: Path, key: Path) -> x509.Certificate | None:
    if not (cert.is_file() and key.is_file()):
        return None
    try:
        given_certificate(cert, key)
        return x509.load_pem_x509_certificate(cert.read_bytes())
    except AnemoneError:
        return None  # the two were not written together: the machine went down in between


def _covered(found: x509.Certificate) -> set[x509.GeneralName]:
    return set(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _make(cert: Path, key: Path, wanted: set[x509.GeneralName]) -> x509.Certificate:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Anemone on this machine")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + datetime.timedelta(_GOOD_FOR))
        .add_extension(x509.SubjectAlternativeName(sorted(wanted, key=repr)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key, pem)
    _write(cert, made.public_bytes(serialization.Encoding.PEM))
    return made


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)
