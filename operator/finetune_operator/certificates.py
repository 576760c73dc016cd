"""The certificate of the reports endpoint: a certificate authority of our own and a serving certificate.

Both lie in one Secret that the chart creates empty. Pods trust for as long as they live what they were started with, so
authorities overlap: the next one is made a year before the present one ends, and pods that start from then on trust
both; the endpoint serves by the present one for as long as that can vouch for a certificate at all. The authority of a
serving certificate is thus in the trust of every pod that started within the last eight months.
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
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_operator.cluster import Cluster
from finetune_operator.connection import ApiError
from finetune_operator.observed import Raw

_CA_LIFETIME = timedelta(days=3650)
_LIFETIME = timedelta(days=365)
"""Of a serving certificate; also how long before its end an authority gets a successor."""
_RENEW_BEFORE = timedelta(days=120)
"""How long before its end a serving certificate, and an authority that serves, gives way to the next."""
_SKEW = timedelta(hours=1)
"""How far a certificate's life begins in the past, for clocks that are behind."""


class SecretMissing(Exception):
    """The Secret that the certificate is kept in does not exist."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, PEM."""

    certificate: str
    key: str

    def left(self, now: datetime) -> timedelta:
        """How long it lives; nothing where it cannot be read."""
        try:
            ca = x509.load_pem_x509_certificate(self.certificate.encode())
            key = serialization.load_pem_private_key(self.key.encode(), None)
        except (ValueError, TypeError):
            return timedelta()
        usable = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == ca.public_key()
        return ca.not_valid_after_utc - now if usable else timedelta()


@dataclass(frozen=True, slots=True)
class Material:
    """Certificates and private keys, PEM."""

    authority: Authority
    """That the serving certificate is by."""
    following: Authority | None
    """That the next ones will be by, once there is one."""
    certificate: str
    key: str

    @property
    def ca(self) -> str:
        """What pods are to trust: one certificate, or two."""
        return self.authority.certificate + (self.following.certificate if self.following else "")

    def serves(self, host: str, now: datetime) -> bool:
        """Whether nothing of it needs to be made anew: the certificate is good for a host for some time to come, and
        so is what vouches for it."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.encode())
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.authority.certificate.encode()))
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        successor = self.authority.left(now) > _LIFETIME or self.following is not None
        return successor and _alternative(host) in names and certificate.not_valid_after_utc - now > _RENEW_BEFORE

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
    data = {name: base64.b64encode(text.encode()).decode() for name, text in _texts(made).items()}
    try:
        kept = {name: value for name, value in (secret.get("data") or {}).items() if name not in _FOLLOWING}
        await cluster.update_reports_secret(secret | {"data": kept | data})
    except ApiError as e:
        if e.code != 409:
            raise
        return await ensure(cluster, host, now)
    return made


def make(host: str, now: datetime, old: Material | None = None) -> Material:
    """A serving certificate for a host, by the old authority while that lives long enough, else by the one that was to
    follow it, else by a new one. It ends with its authority at the latest."""
    authority, following = _authorities(now, old)
    ca = x509.load_pem_x509_certificate(authority.certificate.encode())
    ca_key = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - Authority.left has looked
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("finetune-operator", ca.subject, key.public_key(), now, min(_LIFETIME, ca.not_valid_after_utc - now))
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Material(authority, following, certificate=_pem(certificate), key=_key_pem(key))


def _authorities(now: datetime, old: Material | None) -> tuple[Authority, Authority | None]:
    """The one to serve by, and the one to follow it where the first is in its last year."""
    known = [one for one in (old.authority, old.following) if one and one.left(now) > _RENEW_BEFORE] if old else []
    present, following = [*known, None, None][:2]
    if present is None:
        return _new_authority(now), None
    if following is None and present.left(now) <= _LIFETIME:
        following = _new_authority(now)
    return present, following


def _new_authority(now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    called = f"finetune-operator reports CA {now.astimezone(UTC):%Y-%m-%d}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
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
        _builder(called, subject, key.public_key(), now, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(ca), _key_pem(key))


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


_FOLLOWING = ("next-ca.crt", "next-ca.key")


def _texts(material: Material) -> dict[str, str]:
    """The keys of the Secret."""
    found = {
        "ca.crt": material.authority.certificate,
        "ca.key": material.authority.key,
        "tls.crt": material.certificate,
        "tls.key": material.key,
    }
    if material.following:
        found |= dict(zip(_FOLLOWING, (material.following.certificate, material.following.key), strict=True))
    return found


def _read(secret: Raw) -> Material | None:
    try:
        data = {name: base64.b64decode(text).decode() for name, text in (secret.get("data") or {}).items()}
        following = Authority(*(data[name] for name in _FOLLOWING)) if _FOLLOWING[0] in data else None
        return Material(Authority(data["ca.crt"], data["ca.key"]), following, data["tls.crt"], data["tls.key"])
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
