from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from converter.errors import AnemoneError
from server.security import tls
from server.security.tls import Certificate, own_certificate, user_certificate

NAMES = ("localhost", "127.0.0.1", "::1", "mac.local")


def greeted(certificate: Certificate, name: str) -> str:
    """Shake hands as a client that trusts this certificate alone; the protocol that was agreed on."""
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.cert, certificate.key)
    client = ssl.create_default_context(cafile=str(certificate.cert))

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as wrapped:
            wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as wrapped:
            wrapped.send(b"x")
            return str(wrapped.version())
    finally:
        thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_certificate_accepts_every_name_in_it(tmp_path: Path, name: str) -> None:
    assert greeted(own_certificate(tmp_path, NAMES), name) == "TLSv1.3"


def test_it_is_good_for_no_longer_than_apples_systems_allow_and_its_key_is_its_owners(tmp_path: Path) -> None:
    made = own_certificate(tmp_path, NAMES)
    actual = x509.load_pem_x509_certificate(made.cert.read_bytes())
    assert actual.not_valid_after_utc - actual.not_valid_before_utc < datetime.timedelta(825)
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert len(made.fingerprint.split(":")) == 32


def test_it_stays_the_same_until_a_name_is_new_or_its_end_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = own_certificate(tmp_path, NAMES)
    assert own_certificate(tmp_path, NAMES) == first
    assert own_certificate(tmp_path, NAMES[:2]) == first
    second = own_certificate(tmp_path, (*NAMES, "192.168.1.2"))
    assert second.fingerprint != first.fingerprint
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(771)
    monkeypatch.setattr(tls, "_now", lambda: later)
    assert own_certificate(tmp_path, NAMES).fingerprint != second.fingerprint


def test_a_certificate_whose_key_is_another_is_made_anew(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, NAMES)
    pem = first.key.read_bytes()
    second = own_certificate(tmp_path, (*NAMES, "192.168.1.2"))
    second.key.write_bytes(pem)
    assert greeted(own_certificate(tmp_path, NAMES), "localhost")


@pytest.mark.parametrize("name", ["tls", "tls/cert.pem", "tls/.key.pem.new"])
def test_what_is_in_the_certificates_place_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    if name == "tls":
        (tmp_path / name).rmdir()
        (tmp_path / name).write_text("a file")
    with pytest.raises(AnemoneError, match=r"tls cannot be used: .* move it away"):
        own_certificate(tmp_path, NAMES)


def test_a_user_certificate_is_used_as_it_is(tmp_path: Path) -> None:
    made = own_certificate(tmp_path, NAMES)
    assert user_certificate(made.cert, made.key) == made


@pytest.mark.parametrize("broken", ["missing", "empty", "swapped", "another key", "encrypted"])
def test_a_user_certificate_that_cannot_be_used_is_named(tmp_path: Path, broken: str) -> None:
    made = own_certificate(tmp_path, NAMES)
    cert, key = made.cert, made.key
    if broken == "missing":
        cert = tmp_path / "nothing.pem"
    elif broken == "empty":
        cert.write_bytes(b"")
    elif broken == "swapped":
        cert, key = key, cert
    else:
        locked = serialization.BestAvailableEncryption(b"password")
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                locked if broken == "encrypted" else serialization.NoEncryption(),
            )
        )
    with pytest.raises(AnemoneError, match=cert.name):
        user_certificate(cert, key)


def test_it_has_ipv6_addresses_but_is_not_replaced_as_they_change(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, NAMES, changing=("2001:db8::1",))
    assert greeted(first, "2001:db8::1") == "TLSv1.3"
    assert own_certificate(tmp_path, NAMES, changing=("2001:db8::2",)).fingerprint == first.fingerprint


def test_a_certificate_without_names_in_its_place_is_made_anew(tmp_path: Path) -> None:
    own = own_certificate(tmp_path, NAMES)
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    other = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(300))
    own.cert.write_bytes(other.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    assert greeted(own_certificate(tmp_path, NAMES), "localhost")
