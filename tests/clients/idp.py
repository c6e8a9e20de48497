#!/usr/bin/env python3
"""A third-party identity provider (npm `oidc-provider`) and the official clients that find it, through Arbiter.

    tests/clients/idp.py                 everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/idp.py --only opaque   only cases whose name contains "opaque"

Arbiter knows the provider's `issuer_url` and nothing else of it, or only where to ask about tokens; clients know the
gateway's URL and their own credentials. Packages are those of run.py; what is missing is a failure.
"""

import argparse
import base64
import contextlib
import json
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter, request, stop, wait_for_file  # noqa: E402
from conformance import free_port, node  # noqa: E402

SCOPE = "tools:call"
NEEDS_SCOPE = f"""\
[[policies]]
id = "whoever-holds-the-scope"
effect = "allow"
allowed_tools = ["*"]
[policies.principal_match]
scopes = ["{SCOPE}"]
"""
# How each client's tokens are made. `arbiter` asks about tokens and gets none for itself.
CLIENTS = {
    "rsa": {"format": "jwt", "alg": "RS256"},
    "ec": {"format": "jwt", "alg": "ES256"},
    "ed": {"format": "jwt", "alg": "EdDSA"},
    "newcomer": {"format": "jwt", "alg": "ES256"},
    "opaque": {"format": "opaque", "alg": ""},
    "arbiter": {"format": "opaque", "alg": ""},
}
ELSEWHERE = "https://elsewhere.example/mcp"


class Provider:
    """One running provider; `stop()` takes it away for good."""

    def __init__(self, packages, folder, host="127.0.0.1", **more):
        self.directory_path = folder / "directory.json"
        self.directory = {
            "resources": [ELSEWHERE],
            "scope": SCOPE,
            "clients": {name: {**client, "secret": secrets.token_hex(16)} for name, client in CLIENTS.items()},
            **more,
        }
        self.save()
        ready = folder / "idp.url"
        command = [node(packages), HERE / "idp_server.mjs", "--modules", packages["node"]]
        command += ["--directory", self.directory_path, "--ready-file", ready, "--host", host]
        self.log_path = folder / "idp.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            self.issuer = wait_for_file(ready, self.process, "the identity provider").strip()
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"{error}:\n{self.log_path.read_text()[-2000:]}") from error

    def save(self):
        new = self.directory_path.with_suffix(".new")
        new.write_text(json.dumps(self.directory))
        new.replace(self.directory_path)

    def secret(self, client):
        return self.directory["clients"][client]["secret"]

    def token(self, client, resource=None, scope=SCOPE):
        """A client credentials token, for a resource if one is named."""
        form = {"grant_type": "client_credentials", "scope": scope, **({"resource": resource} if resource else {})}
        basic = base64.b64encode(f"{client}:{self.secret(client)}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        status, _, text = request(
            f"{self.issuer}/token", method="POST", headers=headers, body=urllib.parse.urlencode(form).encode()
        )
        assert status == 200, f"no token for {client}: {status} {text[:300]}"
        return json.loads(text)["access_token"]

    def stop(self):
        stop(self.process, seconds=3)


class Place:
    """A gateway before a real MCP server, with an agent and a session for each client of the provider."""

    def __init__(self, gateway, provider, url):
        self.gateway, self.provider, self.url = gateway, provider, url
        self.agents, self.sessions = {}, {}
        provider.directory["resources"].append(url)
        for client in CLIENTS:
            if client == "newcomer":
                self.agents[client] = str(uuid.uuid4())
            else:
                self.admit(client, gateway.register_agent(trust_level="basic")["agent_id"])
            provider.directory["clients"][client]["agent_id"] = self.agents[client]
        provider.save()

    def admit(self, client, agent_id):
        self.agents[client] = agent_id
        opened = self.gateway.open_session(agent_id, authorized_tools=["add", "echo"])
        self.sessions[client] = opened["session_id"]

    def headers(self, client):
        return {"x-agent-id": self.agents[client], "x-arbiter-session": self.sessions.get(client, str(uuid.uuid4()))}

    def call(self, client, token):
        """Calls a tool without a handshake, as 2026-07-28 has it; returns (status, headers, answer)."""
        version = "2026-07-28"
        meta = {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": "add", "arguments": {"a": 20, "b": 22}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            **self.headers(client),
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": version,
            "Mcp-Method": "tools/call",
            "Mcp-Name": "add",
        }
        status, answered, text = request(self.url, method="POST", headers=headers, body=body)
        return status, answered, text

    def works(self, client, token):
        status, _, text = self.call(client, token)
        assert status == 200 and '"total":42' in text.replace(" ", ""), f"{client}: {status} {text[:500]}"

    def refuses(self, client, token, status, code):
        got, headers, text = self.call(client, token)
        assert (got, f'"{code}"' in text) == (status, True), f"{client}: expected {status} {code}, got {got} {text[:500]}"
        challenge = headers["WWW-Authenticate"]
        if status == 503:  # the issuer's trouble is no reason to ask it for another token
            assert challenge is None and headers["Retry-After"], (challenge, headers["Retry-After"])
            return None
        assert f'resource_metadata="{metadata_url(self.url)}"' in challenge, challenge
        return challenge


def metadata_url(url):
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"


@contextlib.contextmanager
def place(provider, upstream, **issuer):
    """A gateway that trusts the provider as `issuer` says; a client's resource is the very URL that it calls."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    issuers = [{"name": "third-party", "issuer_url": provider.issuer, **issuer}]
    settings = {"proxy": {"listen_port": port}, "oauth": {"resource": url}}
    environment = {"ARBITER_OAUTH__ISSUERS": json.dumps(issuers)}
    with Arbiter(upstream, policies=NEEDS_SCOPE, settings=settings, environment=environment) as gateway:
        yield Place(gateway, provider, url)


def header_of(token):
    first = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))


# --- cases ------------------------------------------------------------------------------------------------------------


def signed_tokens(place, provider, **_):
    """Keys are found from `issuer_url` alone; tokens of every kind of key call a tool; others do not."""
    for client in ("rsa", "ec", "ed"):
        token = provider.token(client, place.url)
        assert header_of(token)["alg"] == CLIENTS[client]["alg"], "the provider signs as it was told"
        place.works(client, token)
    challenge = place.refuses("rsa", provider.token("rsa", ELSEWHERE), 401, "TokenInvalid")
    assert 'error="invalid_token"' in challenge, challenge
    # A token that cannot be read here and that nobody can be asked about.
    place.refuses("opaque", provider.token("opaque", place.url), 401, "TokenInvalid")
    challenge = place.refuses("rsa", provider.token("rsa", place.url, scope=""), 403, "InsufficientScope")
    assert 'error="insufficient_scope"' in challenge and f'scope="{SCOPE}"' in challenge, challenge


def unknown_agent(place, provider, **_):
    """An agent that nobody registered comes in untrusted, and can act once an operator opened a session for it."""
    token = provider.token("newcomer", place.url)
    status, _, text = place.call("newcomer", token)
    assert status == 403 and '"SessionUnknown"' in text, f"{status} {text[:500]}"
    agent = place.gateway.admin("GET", f"/agents/{place.agents['newcomer']}", expect=200)
    assert (agent["trust_level"], agent["owner"]) == ("untrusted", "newcomer"), agent
    place.admit("newcomer", agent["id"])
    place.works("newcomer", token)


def revoked_here(place, provider, **_):
    """An operator ends one token of the provider's; the next call with it is refused, one with another is not."""
    token, other = provider.token("ec", place.url), provider.token("ec", place.url)
    place.works("ec", token)
    claims = token.split(".")[1]
    jti = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"]
    place.gateway.admin("DELETE", f"/tokens/{jti}", expect=200)
    place.refuses("ec", token, 401, "TokenInvalid")
    place.works("ec", other)


def client_finds_all(place, provider, packages, folder, sdk, mode="legacy"):
    """The official client gets from Arbiter's 401 to a tool's answer, and is told neither issuer nor resource."""
    client = {"1": "rsa", "2": "ec"}[sdk]
    command = [node(packages), HERE / "oauth_client.mjs", "--sdk", sdk, "--modules", packages["node"]]
    command += ["--url", place.url, "--client", f"{client}={provider.secret(client)}", "--scope", SCOPE]
    command += ["--mode", mode]
    command += ["--tool", "add", "--arguments", json.dumps({"a": 20, "b": 22})]
    command += [f"--header={name}={value}" for name, value in place.headers(client).items()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=run.CLIENT_SECONDS)
    assert done.returncode == 0, f"the client ended with {done.returncode}:\n{done.stderr[-3000:]}"
    said = json.loads(done.stdout)
    assert (said["status"], said["scope"]) == (401, SCOPE), said
    assert said["issuer"] == provider.issuer and said["resource"]["resource"] == place.url, said
    assert said["result"]["structuredContent"] == {"total": 42}, said
    went = said["requests"]
    assert went[0] == "POST gateway/mcp 401", went
    assert went.count("POST issuer/token 200") == 1, went
    first = went.index("POST issuer/token 200")
    assert all(step.endswith(("200", "202", "405")) for step in went[first:]), went
    lines = (folder / "seen.jsonl").read_text().splitlines()
    assert not any("authorization" in json.loads(line) for line in lines), "a token reached the server"


def opaque_tokens(place, provider, **_):
    """What only the provider can read is asked about; what it does not vouch for is refused."""
    token = provider.token("opaque", place.url)
    assert "." not in token
    place.works("opaque", token)
    place.refuses("opaque", provider.token("opaque", ELSEWHERE), 401, "TokenInvalid")
    place.refuses("opaque", provider.token("opaque"), 401, "TokenInvalid")
    place.refuses("opaque", secrets.token_urlsafe(32), 401, "TokenInvalid")


def provider_stops(place, provider, **_):
    """Without its provider Arbiter goes on with the keys it knows, for tokens it has seen and for others."""
    used, fresh = provider.token("rsa", place.url), provider.token("rsa", place.url)
    place.works("rsa", used)
    provider.stop()
    for _ in range(3):
        place.works("rsa", used)
    place.works("rsa", fresh)


def opaque_without_provider(place, provider, **_):
    """A token that only the provider can read proves nothing once it is gone, which is no fault of the token's."""
    token = provider.token("opaque", place.url)
    provider.stop()
    place.refuses("opaque", token, 503, "IdentityUnavailable")


DISCOVERED = {"auto_register": True}
CASES = [
    ("tokens signed by every kind of key", DISCOVERED, signed_tokens, {}),
    ("an agent that nobody registered", DISCOVERED, unknown_agent, {}),
    ("a token that is revoked here", DISCOVERED, revoked_here, {}),
    ("ts-1 finds the provider by itself", DISCOVERED, client_finds_all, {"sdk": "1"}),
    ("ts-2 finds the provider by itself", DISCOVERED, client_finds_all, {"sdk": "2"}),
    ("ts-2 2026-07-28 finds the provider", DISCOVERED, client_finds_all, {"sdk": "2", "mode": "2026-07-28"}),
    ("the provider stops: known keys", DISCOVERED, provider_stops, {}),
    ("opaque tokens", "asked", opaque_tokens, {}),
    ("the provider stops: opaque tokens", "asked", opaque_without_provider, {}),
]


def trust(kind, provider):
    if kind != "asked":
        return kind
    url, secret = f"{provider.issuer}/token/introspection", provider.secret("arbiter")
    return {"introspection_url": url, "client_id": "arbiter", "client_secret": secret}


def main():
    parser = argparse.ArgumentParser(description="a third-party identity provider and the official clients")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    packages = run.install_all()
    cases = [case for case in CASES if options.only in case[0]]
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="arbiter-idp-") as temporary:
        folder = pathlib.Path(temporary)
        with run.server("sdk", packages, folder) as upstream:
            for name, kind, case, more in cases:
                started, verdict = time.monotonic(), "ok"
                with tempfile.TemporaryDirectory(dir=folder) as own, contextlib.ExitStack() as stack:
                    provider = Provider(packages, pathlib.Path(own))
                    stack.callback(provider.stop)
                    there = stack.enter_context(place(provider, upstream, **trust(kind, provider)))
                    more = {**more, **({"packages": packages, "folder": folder} if "sdk" in more else {})}
                    try:
                        case(there, provider, **more)
                    except Exception as error:  # a case that breaks is a row, not the end of the run
                        failed += 1
                        verdict = "FAILED"
                        print(f"--- {name}\n{error}\n--- gateway's log\n{there.gateway.log(15)}", flush=True)
                        print(f"--- provider's log\n{provider.log_path.read_text()[-1500:]}", flush=True)
                rows.append((name, verdict, time.monotonic() - started))
    for name, verdict, seconds in rows:
        print(f"{name:40} {verdict:7} {seconds:5.1f} s")
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
