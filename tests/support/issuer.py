"""An authorization server for tests: metadata and keys over HTTP on loopback, and tokens that it signs."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from tests.support.certificates import Certificate

AUDIENCE = "https://mcp.example.org/mcp"
Reply = tuple[int, dict[str, str], bytes]


class SigningKey:
    """A private key, and its public half as a JSON Web Key."""

    def __init__(self, kind: str = "ES256", key_id: str | None = "k1", **fields: Any) -> None:
        self.algorithm = kind
        self.id = key_id
        self.private = _PRIVATE[kind]()
        maker = jwt.get_algorithm_by_name(kind)
        self.document = dict(maker.to_jwk(self.private.public_key(), as_dict=True))
        self.document |= {"alg": kind, "use": "sig", **fields}
        if key_id is not None:
            self.document["kid"] = key_id

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        named = {} if self.id is None else {"kid": self.id}
        algorithm = headers.pop("alg", self.algorithm)
        return jwt.encode(claims, self.private, algorithm, {"typ": "at+jwt", **named, **headers})


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


_PRIVATE: dict[str, Callable[[], Any]] = {
    "RS256": _rsa,
    "PS256": _rsa,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256K": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
}


class Issuer:
    """The server.

    Attributes:
        url: Its issuer.
        keys: What it has to sign with, the first by default.
        replies: What it answers with instead, by path.
        requests: The paths that were asked for.
        requested: Set at each request.
        may_answer: Cleared to let requests wait.
    """

    def __init__(self, path: str = "", certificate: Certificate | None = None) -> None:
        self.keys = [SigningKey()]
        self.replies: dict[str, Reply] = {}
        self.requests: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._path = path
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}{path}"

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a valid token; None leaves one out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "client_id": "agent",
            "iat": now,
            "exp": now + 3_600,
            "scope": "read publish",
            "jti": "1",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changes: Any) -> str:
        return self.keys[0].sign(self.claims(**changes))

    def count(self, end: str = "/keys") -> int:
        """How often a path that ends so was asked for."""
        return sum(path.endswith(end) for path in self.requests)

    def document(self, path: str) -> dict[str, Any] | None:
        if path == f"/.well-known/oauth-authorization-server{self._path}":
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "grant_types_supported": ["client_credentials"],
            }
        if path == f"{self._path}/keys":
            return {"keys": [each.document for each in self.keys]}
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                issuer.may_answer.wait(60)
                status, headers, body = issuer.replies.get(self.path) or issuer.reply(self.path)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(body))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def do_POST(self) -> None:
                """Issue a token to a client that shows its secret, for the resource that it asks for."""
                issuer.requests.append(self.path)
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                token = issuer.token(aud=asked["resource"][0], scope=asked["scope"][0])
                answer = {"access_token": token, "token_type": "Bearer", "expires_in": 3_600}
                body = json.dumps(answer | {"scope": asked["scope"][0]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler

    def reply(self, path: str) -> Reply:
        document = self.document(path)
        if document is None:
            return 404, {}, b"{}"
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    def _serve(self) -> None:
        self._server.serve_forever(0.01)

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def running_issuer(path: str = "", certificate: Certificate | None = None) -> Iterator[Issuer]:
    """Serve an issuer for the time of the block, over TLS if it has a certificate."""
    issuer = Issuer(path, certificate)
    thread = threading.Thread(target=issuer._serve, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.close()
        thread.join()
