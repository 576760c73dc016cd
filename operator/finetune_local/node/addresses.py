"""Addresses of pods, and the names that a cluster's DNS would know them by.

All pods of local mode are on this machine. One that belongs to a headless Service has an address of its own, so that
several can listen at the same port: Linux takes all of 127.0.0.0/8 for this machine. There is no DNS; the name of such
a pod is replaced by its address where a variable of a container's environment holds it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]
Reference = tuple[str, str]
"""Kind and name of an object that a pod refers to."""

NODE_ADDRESS = "127.0.0.1"
_CLUSTER_DOMAIN = "cluster.local"


def address_of(pod: Object) -> str:
    """The pod's address."""
    hostname, subdomain = pod["spec"].get("hostname"), pod["spec"].get("subdomain")
    return _address(pod["metadata"]["namespace"], hostname, subdomain) if hostname and subdomain else NODE_ADDRESS


def references(pod: Object) -> Iterator[Reference]:
    """The Service that gives the pod its name."""
    if subdomain := pod["spec"].get("subdomain"):
        yield "Service", subdomain


def resolved(text: str, pod: Object, found: Mapping[Reference, Object]) -> str:
    """The address, where the whole of ``text`` is the name of a pod of the same headless Service; else ``text``.

    Args:
        text: the value of a variable.
        pod: whose container has the variable.
        found: the objects of :func:`references` that exist.
    """
    namespace, subdomain = pod["metadata"]["namespace"], pod["spec"].get("subdomain", "")
    service = found.get(("Service", subdomain))
    if service is None or service["spec"].get("clusterIP") != "None":
        return text
    domain = rf"(\.{re.escape(namespace)}(\.svc(\.{re.escape(_CLUSTER_DOMAIN)})?)?)?"
    name = re.fullmatch(rf"([a-z0-9-]+)\.{re.escape(subdomain)}{domain}", text)
    return _address(namespace, name[1], subdomain) if name else text


def _address(namespace: str, hostname: str, subdomain: str) -> str:
    """Always the same for the same name, so that nobody needs to keep a table."""
    digest = hashlib.sha256(f"{namespace}/{subdomain}/{hostname}".encode()).digest()
    return f"127.{digest[0] % 254 + 1}.{digest[1]}.{digest[2] % 254 + 1}"
