"""A development certificate authority, the SuperLink's certificate, and authentication keys of SuperNodes."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedopt.flower import require_flwr

# A SuperLink's own programs reach it on loopback, whatever its name is to others.
ITSELF = ("localhost", "127.0.0.1", "::1")
FILES = ("ca.crt", "ca.key", "server.pem", "server.key")


def make_certificates(directory: Path, hosts: Sequence[str], nodes: int, days: int) -> list[str]:
    """Write keys and certificates; private ones can be read by their owner only, nothing is overwritten.

    Args:
        directory: folder; created.
        hosts: names and addresses under which nodes reach the SuperLink.
        nodes: SuperNodes, each with a key of its own.
        days: validity.
    Returns:
        What was written and how to start the programs with it, one line each.
    Raises:
        FileExistsError: the folder holds one of the files.
        ValueError: no host, or nothing to be valid.
    """
    require_flwr()
    if not hosts or days < 1 or nodes < 0:
        raise ValueError(f"give at least one --host, --days >= 1 and --nodes >= 0; got {list(hosts)}, {days}, {nodes}")
    names = [*FILES, *(f"node-{i}{suffix}" for i in range(nodes) for suffix in ("", ".pub"))]
    there = [name for name in names if (directory / name).exists()]
    if there:
        raise FileExistsError(f"{directory} already holds {', '.join(there)}; choose another folder, or remove them")
    directory.mkdir(parents=True, exist_ok=True)
    authority, certificate = _authority(directory, days)
    _server(directory, authority, certificate, hosts, days)
    for node in range(nodes):
        _node_key(directory, node)
    return _instructions(directory, hosts[0], nodes)


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def _secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))


def _builder(subject: str, issuer: str, public_key: Any, days: int) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    now = datetime.now(UTC)
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    return (
        x509.CertificateBuilder()
        .subject_name(named[0])
        .issuer_name(named[1])
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


AUTHORITY = "fedopt development CA"


def _authority(directory: Path, days: int) -> tuple[Any, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key = _key()
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates only
    builder = _builder(AUTHORITY, AUTHORITY, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, hashes.SHA384())
    _secret(directory / "ca.key", _pem(key))
    (directory / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return key, certificate


def _server(directory: Path, authority: Any, certificate: Any, hosts: Sequence[str], days: int) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = _key()
    builder = _builder(hosts[0], AUTHORITY, key.public_key(), days)
    names = [_name(host) for host in dict.fromkeys((*hosts, *ITSELF))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(certificate.public_key())
    signed = builder.add_extension(issuer, critical=False).sign(authority, hashes.SHA384())
    _secret(directory / "server.key", _pem(key))
    (directory / "server.pem").write_bytes(signed.public_bytes(Encoding.PEM))


def _name(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _node_key(directory: Path, node: int) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = _key()
    _secret(directory / f"node-{node}", key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    (directory / f"node-{node}.pub").write_bytes(public + b"\n")


def _instructions(directory: Path, host: str, nodes: int) -> list[str]:
    link = (
        f"flower-superlink --ssl-ca-certfile {directory}/ca.crt --ssl-certfile {directory}/server.pem "
        f"--ssl-keyfile {directory}/server.key --enable-supernode-auth --disable-runtime-dependency-installation "
        "--host 0.0.0.0 --port 8000"
    )
    node = (
        f"flower-supernode --root-certificates ca.crt --superlink {host}:8000 --auth-supernode-private-key node-0 "
        f"--node-config 'partition-id=0 num-partitions={max(1, nodes)}'"
    )
    return [
        f"wrote a development CA, the certificate of {host} and {nodes} node keys to {directory}",
        "keep ca.key offline; give every node ca.crt and its own key, never another's",
        f"SuperLink:  {link}",
        f"register:   flwr supernode register {directory}/node-0.pub CONNECTION",
        f"SuperNode:  {node}",
        f"submit:     fedopt deploy scenario.yaml --superlink {host}:8000 --root-certificates {directory}/ca.crt",
    ]
