"""The certificate of the reports endpoint: a certificate authority of our own and a serving certificate.

Both lie in one Secret that the chart creates empty. Pods trust the authority for as long as they live, so it stays
while the serving certificate is renewed.
"""

import base64
import binascii
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_operator.cluster import ApiError, Cluster
from finetune_operator.observed import Raw

_CA_LIFETIME = timedelta(days=3650)
_LIFETIME = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=120)
_SKEW = timedelta(hours=1)
"""How far a certificate's life begins in the past, for clocks that are behind."""
_KEYS = {"ca": "ca.crt", "ca_key": "ca.key", "certificate": "tls.crt", "key": "tls.key"}


class SecretMissing(Exception):
    """The Secret that the certificate is kept in does not exist."""


@dataclass(frozen=True, slots=True)
class Material:
    """Certificates and private keys, PEM."""

    ca: str
    ca_key: str
    certificate: str
    key: str

    def serves(self, host: str, now: datetime) -> bool:
        """Whether the certificate is good for a host for some time to come."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.encode())
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.ca.encode()))
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, x509.ExtensionNotFound):
            return False
        return _alternative(host) in names and certificate.not_valid_after_utc - now > _RENEW_BEFORE

    def context(self) -> ssl.SSLContext:
        """A TLS server's context."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Serve with this certificate from the next connection on.

        Python loads certificates from files only; they are gone when this returns.
        """
        with tempfile.TemporaryDirectory() as folder:
            chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            key.touch(mode=0o600)
            chain.write_text(self.certificate)
            key.write_text(self.key)
            context.load_cert_chain(chain, key)


async def ensure(cluster: Cluster, host: str, now: datetime) -> Material:
    """The certificate that all replicas serve with: read from the Secret, made anew where it is missing or old.

    Raises:
        SecretMissing: there is no such Secret.
        ApiError: 409 where another replica was faster; the next try reads its certificate.
    """
    secret = await cluster.get_reports_secret()
    if secret is None:
        raise SecretMissing
    found = _read(secret)
    if found and found.serves(host, now):
        return found
    made = make(host, now, found)
    data = {_KEYS[name]: base64.b64encode(getattr(made, name).encode()).decode() for name in _KEYS}
    try:
        await cluster.update_reports_secret(secret | {"data": (secret.get("data") or {}) | data})
    except ApiError as e:
        if e.code != 409:
            raise
        return await ensure(cluster, host, now)
    return made


def make(host: str, now: datetime, old: Material | None = None) -> Material:
    """A serving certificate for a host, by the old authority where that lives long enough, else by a new one."""
    ca_key, ca = _authority(now, old)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("finetune-operator", ca.subject, key.public_key(), now, _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Material(ca=_pem(ca), ca_key=_key_pem(ca_key), certificate=_pem(certificate), key=_key_pem(key))


def _authority(now: datetime, old: Material | None) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if old:
        try:
            ca = x509.load_pem_x509_certificate(old.ca.encode())
            ca_key = serialization.load_pem_private_key(old.ca_key.encode(), None)
        except (ValueError, TypeError):
            ca_key = None
        if isinstance(ca_key, ec.EllipticCurvePrivateKey) and ca.not_valid_after_utc - now > _LIFETIME:
            return ca_key, ca
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-operator reports CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        _builder("finetune-operator reports CA", subject, key.public_key(), now, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, ca


def _builder(
    name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _SKEW)
        .not_valid_after(now.astimezone(UTC) + lifetime)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read(secret: Raw) -> Material | None:
    data = secret.get("data") or {}
    try:
        return Material(**{name: base64.b64decode(data[key]).decode() for name, key in _KEYS.items()})
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
