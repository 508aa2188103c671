"""Addresses of servers: what of them may be shown, and how they are reached.

An address is shown without its secrets, or not at all. Where a password has a `@`, `/`, `?` or `#`
that is not escaped, libraries disagree on where it ends, and show what they take for the host. Such
an address is ambiguous: it should be refused before a library gets it.

A server on this machine is never asked through a proxy. Certificates are judged by the file in
`SSL_CERT_FILE`, or by those that the system trusts: every client is told the same.

Source: RFC 3986, "Uniform Resource Identifier", section 3.
"""

from __future__ import annotations

import os
import re
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import PoolManager

HIDDEN = "***"
ESCAPE = (
    "in its user and password write what is no letter or digit as % and two hex digits: @ is %40, "
    "/ is %2F, ? is %3F, # is %23, % is %25, a blank is %20"
)
"""What to do about an ambiguous address."""
_LOCAL_NAMES = "localhost,127.0.0.1,::1"
"""Not `[::1]`, which urllib would know too: httpx fails on it, and this is its environment too."""

_LOGIN = r"(?:[^%\s/?#@\[\]\\\x00-\x20\x7f]|%[0-9A-Fa-f]{2})*"
_HOST = r"(?:[\w.%-]+|\[[\w.:%]+\])?(?::\d*)?"
_ADDRESS = re.compile(
    rf"(?P<scheme>[A-Za-z][\w+.-]*)://(?:(?P<login>{_LOGIN})@)?(?P<hosts>{_HOST}(?:,{_HOST})*)"
    r"(?P<path>/[^?#@&=\s]*)?(?:\?(?P<query>(?:[^@#\s]| )*))?"
)
_FILE = re.compile(r"(?:sqlite|file):///(?P<path>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
_MODEL = re.compile(r"models:/[^/:@]*@[^/:@]*")
_PLAIN_PATH = re.compile(r"[\w.~+,:/ -]*")
_MAY_HOLD = re.compile(
    r"(?:passw(?:or)?d|pwd|secret|token|key|signature|credential)\s*=|:.*@",
    re.IGNORECASE | re.DOTALL,
)
_OPEN_PARAMETERS = re.compile(
    r"(?:host|port|user|dbname|options|connect_timeout|application_name|ssl(?:mode|rootcert|_\w+))="
)
_SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Of Debian, Red Hat, SUSE, and Alpine and macOS: where Python's OpenSSL may not look."""


def is_ambiguous(address: str) -> bool:
    """Return True unless every library finds the same login and host in an address with `://`."""
    return not (_ADDRESS.fullmatch(address) or _FILE.fullmatch(address))


def shown_address(address: str) -> str:
    """The address as it may be shown: `***` in place of a login, of parameters, or of all.

    A user alone is shown for Postgres: elsewhere it may be a token. A path or a name, which cannot
    have a password, is shown as it is.
    """
    if not re.search("[:@=?]", address) or _MODEL.fullmatch(address):
        return address
    found = _FILE.fullmatch(address) or _ADDRESS.fullmatch(address)
    if found is None:
        return HIDDEN
    query = f"?{HIDDEN}" if found["query"] else ""
    if found.re is _FILE:
        return address.partition("?")[0] + query
    path = found["path"] or ""
    if not _PLAIN_PATH.fullmatch(path):
        path = f"/{HIDDEN}"
    login = ""
    if found["login"]:
        is_user = found["scheme"].startswith("postgres") and ":" not in found["login"]
        login = f"{found['login'] if is_user else HIDDEN}@"
    return f"{found['scheme']}://{login}{found['hosts']}{path}{query}"


def may_hold_password(text: str) -> bool:
    """Return True if a text that need not be an address may hold a password or a token."""
    return bool(_MAY_HOLD.search(text)) and shown_address(text) != text


def shown_text(text: str) -> str:
    """A text that need not be an address, as it may be shown."""
    return shown_address(text) if may_hold_password(text) else text


def redacted(text: str, *addresses: str) -> str:
    """A library's text with `***` for whatever is secret in the addresses that it was given."""
    secrets = {secret for address in addresses for secret in _secrets(address)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(address: str) -> Iterator[str]:
    """The secret parts of an address, in each form in which a message may have them."""
    found = _FILE.fullmatch(address) or _ADDRESS.fullmatch(address)
    if found is None:
        if not may_hold_password(address):
            return
        inner = address.partition("://")[2]
        parts = [address, inner, inner.rpartition("@")[0]]
    else:
        groups = found.groupdict()
        login = groups.get("login") or ""
        parts = [part for part in (login.partition(":")[2],) if part]
        if parts or not groups.get("scheme", "").startswith("postgres"):
            parts.append(login)
        query = (found["query"] or "").split("&")
        closed = [each for each in query if not _OPEN_PARAMETERS.match(each)]
        parts += [part for each in closed for part in (each, each.partition("=")[2])]
    for part in parts:
        for plain in (part, unquote(part), unquote_plus(part)):
            yield from (plain, quote(plain, safe=""), repr(plain)[1:-1])


def is_local(host: str | None) -> bool:
    """Return True for a host name of this machine alone."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def proxy_for(url: str) -> str | None:
    """Proxy in `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` for a URL; None for a direct connection.

    As in Go's `net/http`, a server on this machine is never asked through one.
    """
    parts = urlsplit(url)
    if is_local(parts.hostname) or proxy_bypass(parts.hostname or ""):
        return None
    proxy = getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def no_proxy_here() -> dict[str, str]:
    """Variables by which libraries, too, ask servers on this machine directly."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if known != "*" and _LOCAL_NAMES not in known:
        known = f"{known},{_LOCAL_NAMES}".lstrip(",")
    return {"NO_PROXY": known, "no_proxy": known}


def http_pool(url: str, **options: Any) -> PoolManager:  # noqa: ANN401 - urllib3's own
    """Connections to the server of a URL, through the proxy and with the trust that it has.

    urllib3 comes with the packages that talk to servers.

    Raises:
        ValueError: The address of the proxy is ambiguous, or the file of certificates is missing.
    """
    import urllib3

    options = {"cert_reqs": "CERT_REQUIRED", "ca_certs": trusted_certificates(), **options}
    certificates = options["ca_certs"]
    if url.startswith("https:") and certificates and not Path(certificates).is_file():
        raise ValueError(
            f"there is no file of certificates {certificates!r}; correct the variable that names "
            "it, such as SSL_CERT_FILE"
        )
    proxy = proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(**options)
    if is_ambiguous(proxy):
        name = f"{urlsplit(url).scheme.upper()}_PROXY"
        raise ValueError(f"{name} is not an address like http://proxy:3128; {ESCAPE}")
    login = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)


def trusted_certificates() -> str | None:
    """File of the certificates that servers are judged by: `SSL_CERT_FILE`, or the system's.

    None if the system's are in no file that we know; then each library uses its own.
    """
    if chosen := os.environ.get("SSL_CERT_FILE"):
        return chosen
    found = ssl.get_default_verify_paths().cafile
    known = (found, *_SYSTEM_CERTIFICATES)
    return next((path for path in known if path and Path(path).is_file()), None)


def certificate_problem(error: object) -> str | None:
    """What is wrong with a server's certificate and what to do, if that is what an error says."""
    found = re.search(r"certificate verify failed:? ?(?P<why>[^()'\"]*)", str(error))
    if found is None:
        return None
    why = found["why"].strip(" .") or "it does not say why"
    remedy = "correct the server's certificate, or the address"
    if "issuer" in why or "self" in why or "trust" in why:
        remedy = "set SSL_CERT_FILE to a file (PEM) with the certificate of its authority"
    return f"its certificate is not trusted ({why}); {remedy}"
