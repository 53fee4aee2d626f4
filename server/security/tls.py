"""Certificates for HTTPS: the user's own, or one that the server makes and keeps in the data folder."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from converter.errors import AnemoneError
from server.security.private import remade, write_private

#: Days; Apple's systems trust only certificates that are valid for at most 825.
_VALID_DAYS = 800
_RENEWAL_DAYS = 30


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as PEM files.

    fingerprint: SHA-256 of the certificate, as browsers show it, for the user to compare.
    """

    cert: Path
    key: Path
    fingerprint: str


def user_certificate(cert: Path, key: Path) -> Certificate:
    """Return the user's certificate from these files. Raises AnemoneError if they cannot be used."""
    try:
        certificate = x509.load_pem_x509_certificate(cert.read_bytes())
        # An encrypted key would have OpenSSL ask for its password in the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=b"")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise AnemoneError(
            f"the certificate {cert} cannot be used with the key {key}: {error}; accepted: PEM, the key not encrypted"
        ) from error
    return Certificate(cert, key, _fingerprint(certificate))


def own_certificate(data_dir: Path, names: Iterable[str], changing: Iterable[str] = ()) -> Certificate:
    """Return the server's own certificate for ``names`` (host names and addresses).

    Makes a new one if it is missing, expires within thirty days, or lacks one of the names. A new one has the ``changing``
    names too, but is not replaced for them: a machine takes new IPv6 addresses every day.
    """
    folder = data_dir / "tls"
    cert, key = folder / "cert.pem", folder / "key.pem"
    wanted = _alternatives(names)
    kept = _kept(cert, key)
    if kept is None or not wanted <= _names_of(kept) or _ends(kept) < _now() + datetime.timedelta(_RENEWAL_DAYS):
        with remade(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            kept = _make(cert, key, wanted | _alternatives(changing))
    return Certificate(cert, key, _fingerprint(kept))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _ends(certificate: x509.Certificate) -> datetime.datetime:
    return certificate.not_valid_after_utc


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _alternatives(names: Iterable[str]) -> set[x509.GeneralName]:
    alternatives: set[x509.GeneralName] = set()
    for name in names:
        try:
            alternatives.add(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.add(x509.DNSName(name))
    return alternatives


def _kept(cert: Path, key: Path) -> x509.Certificate | None:
    if not (cert.is_file() and key.is_file()):
        return None
    try:
        user_certificate(cert, key)
        return x509.load_pem_x509_certificate(cert.read_bytes())
    except AnemoneError:
        return None  # the machine stopped between writing the two files


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:  # somebody has put another certificate in its place
        return set()


def _make(cert: Path, key: Path, wanted: set[x509.GeneralName]) -> x509.Certificate:
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Anemone on this machine")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + datetime.timedelta(_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(sorted(wanted, key=repr)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(key, pem)
    write_private(cert, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate
