"""A certificate authority that lives for one test, by the openssl command: what it signs is whatever a test needs."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Authority", "Certificate"]

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A server's certificate and its key, as files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return what a server shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """Signs certificates of servers; `certificate` is what a client must trust. Raises OSError without openssl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        own = self.signed_by_itself("authority", "CA:TRUE")
        self.certificate, self._key = own.certificate, own.key

    def signed_by_itself(self, name: str, constraints: str = "CA:FALSE") -> Certificate:
        """Return a certificate that nobody but its holder vouches for."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        extensions = ["-addext", f"basicConstraints=critical,{constraints}"]
        if constraints == "CA:FALSE":
            extensions += ["-addext", "subjectAltName=IP:127.0.0.1"]
        self._openssl("req", "-x509", *_KEY, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", *extensions)
        return Certificate(certificate=certificate, key=key)

    def signed(self, name: str, *, alternative: str = "IP:127.0.0.1", days: int = 1) -> Certificate:
        """Return a certificate for a host, valid for so many days from now on; fewer than none: it has run out."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        self._openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, "-out", certificate, "-days", str(days), *signing)
        return Certificate(certificate=certificate, key=key)

    def _openssl(self, *args: str | Path) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True, timeout=60)
