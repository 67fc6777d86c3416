"""Keys and certificates: an authority of one's own, the servers it vouches for, and the keys of sites."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpdiff.errors import ConfigError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # the longest that common clients accept
_BACKDATED = datetime.timedelta(hours=1)  # for machines whose clock is a little behind


@dataclass(frozen=True)
class Identity:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, for everybody."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key, for a file that only its owner reads."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Identity:
        """Read both again.

        Raises
        ------
        ConfigError
            When either is not what this module writes.
        """
        try:
            loaded = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError):
            raise ConfigError("the private key of the certificate authority cannot be read") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ConfigError("the private key of the certificate authority is not an elliptic-curve key")
        return cls(read_certificate(certificate), loaded)


def make_authority(name: str) -> Identity:
    """Make a certificate authority that signs itself and may sign servers only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = (
        _builder(subject, subject, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Identity(builder.sign(key, hashes.SHA256()), key)


def make_server(authority: Identity, hosts: Sequence[str], days: int = SERVER_DAYS) -> Identity:
    """Make a server's certificate for these host names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(subject, authority.certificate.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(issuer_key, critical=False)
    )
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def make_site_key() -> tuple[bytes, bytes]:
    """Return a site's private and public key (P-384), in OpenSSH's format as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def read_certificate(pem: bytes) -> x509.Certificate:
    """Read one certificate.

    Raises
    ------
    ConfigError
        When it is not a certificate in PEM format.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigError("not a certificate in PEM format (-----BEGIN CERTIFICATE-----)") from None


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether this certificate may vouch for others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def names_in(certificate: x509.Certificate) -> list[str]:
    """Return the host names and addresses that a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
