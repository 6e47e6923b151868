"""Certificates for tests of TLS: a CA that lives for the test, and what it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


@attrs.frozen
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: str
    key: str


class Authority:
    """A CA of the test's own."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        """Make its certificate in `directory`."""
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = _builder(self._name, self._name, self._key.public_key(), -_DAY, _DAY)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = str(directory / f"{name}.pem")
        Path(self.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *names: str,
        since: dt.timedelta = -_DAY,
        until: dt.timedelta = _DAY,
        passphrase: bytes | None = None,
    ) -> Certificate:
        """Sign a certificate for some names.

        Args:
            name: Of the files, and the subject.
            names: Host names, addresses, URIs and e-mail addresses that it is for.
            since: When it begins to be valid, from now.
            until: When it expires, from now.
            passphrase: Protects its key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), self._name, key.public_key(), since, until)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(issuer, critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general(each) for each in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = Certificate(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        Path(paths.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file = Path(paths.key)
        key_file.touch(0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(passphrase)
                if passphrase
                else serialization.NoEncryption(),
            )
        )
        return paths


def tls_options(
    port: int, authority: Authority, certificate: Certificate, *, clients: str
) -> tuple[str, ...]:
    """Options that make redis-server speak TLS on `port`.

    Args:
        port: The port for TLS; the server's other one stays plain.
        authority: Signs the certificates of clients.
        certificate: The server's.
        clients: Whether clients must show one: "yes", "no" or "optional".
    """
    return (
        *("--tls-port", str(port), "--tls-auth-clients", clients),
        *("--tls-cert-file", certificate.certificate, "--tls-key-file", certificate.key),
        *("--tls-ca-cert-file", authority.certificate),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: dt.timedelta,
    until: dt.timedelta,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
