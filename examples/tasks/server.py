#!/usr/bin/env python3
"""The backend of the tasks example: serves its files, lets people in, and writes what they do.

Reading is not its business: browsers get the tables from the gateway. Each write is one of the statements in
actions/, run by psql as the role that the visitor's token names, with its claims, so that grants and row-level security decide.
What a browser sends is only ever a value: psql takes it from its environment and quotes it as a literal.

Logging in asks for no password, so this is for a loopback address and a demonstration. Everything else is as in earnest.

The environment holds RTE_JWT_SECRET, which the gateway knows as rte.jwt_secret.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ROLE = "member"
# By action: the values that its statement takes, and what they have to look like.
NUMBER = re.compile(r"[0-9]{1,9}")
MAYBE_NUMBER = re.compile(r"([0-9]{1,9})?")
STATE = re.compile(r"todo|doing|review|done")
PERSON = re.compile(r"[a-z]{0,40}")
TRUTH = re.compile(r"true|false")
TITLE = re.compile(r"[^\0]{1,200}")
BODY = re.compile(r"[^\0]{1,2000}")
ACTIONS = {
    "add_task": {"board": NUMBER, "title": TITLE, "state": STATE, "assignee": PERSON},
    "move_task": {"task": NUMBER, "state": STATE, "before": MAYBE_NUMBER},
    "tick_task": {"task": NUMBER, "done": TRUTH},
    "edit_task": {"task": NUMBER, "title": TITLE, "assignee": PERSON},
    "delete_task": {"task": NUMBER},
    "add_comment": {"task": NUMBER, "body": BODY},
}
STATEMENTS = {name: (HERE / "actions" / f"{name}.sql").read_text() for name in ACTIONS}
# Short, so that the demonstration also shows tokens being renewed.
TOKEN_LIFE_S = 10 * 60
LARGEST_BODY = 16 * 1024
# Programs that run at the same time, and how long one may take.
AT_ONCE = threading.BoundedSemaphore(8)
STATEMENT_LIMIT_S = 10


class Refused(Exception):
    """An answer that is not 200, with words for people."""

    def __init__(self, status, words):
        super().__init__(words)
        self.status = status


class Database:
    """psql, as the authenticator: who may do nothing but become a role that tokens name."""

    def __init__(self, psql, host):
        self.command = [psql, "-h", host, "-U", "authenticator", "-X", "-q", "-A", "-t"]

    def run(self, tenant, script, values):
        """The script's output. `values` are psql's variables of the same names, for use as `:'name'`."""
        # Not as arguments, which everybody on the machine can read, and not in the script, which would make SQL of them.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "RTE_"))}
        environment |= {f"VALUE_{name}": value for name, value in values.items()}
        fetch = "".join(f"\\getenv {name} VALUE_{name}\n" for name in values)
        command = [*self.command, "-d", tenant, "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate"]
        with AT_ONCE:
            done = subprocess.run(
                command, input=fetch + script, env=environment, capture_output=True, text=True, timeout=STATEMENT_LIMIT_S
            )
        if done.returncode == 0:
            return done.stdout.strip()
        found = re.search(r"ERROR:\s+(\w{5})", done.stderr)
        raise refusal(found[1] if found else None)

    def logins(self, tenant):
        return json.loads(self.run(tenant, "SELECT coalesce(json_agg(l), '[]') FROM logins() l;", {}))

    def act(self, claims, action, values):
        """Runs an action as the visitor; what it returns is the id of the row."""
        script = (
            f"BEGIN;\nSET LOCAL ROLE {ROLE};\nSELECT set_config('request.jwt.claims', :'claims', true) AS claims \\gset\n"
            f"{STATEMENTS[action]}\nCOMMIT;"
        )
        found = self.run(claims["tenant"], script, {**values, "claims": json.dumps(claims)})
        if not found:
            raise Refused(404, "There is no such row, or it is not yours to change.")
        return int(found)


def refusal(code):
    if code == "42501":
        return Refused(403, "Row-level security or a missing grant does not let you do that.")
    if code and code[:2] in ("22", "23"):
        return Refused(400, "The database does not take this value.")
    return Refused(503, "The database does not answer just now.")


class Tokens:
    """JSON Web Tokens, signed with the secret that the gateway's workers verify them with."""

    def __init__(self, secret):
        self.secret = secret.encode()

    def make(self, claims):
        head = encode(b'{"alg":"HS256"}')
        body = encode(json.dumps({**claims, "exp": int(time.time()) + TOKEN_LIFE_S}, separators=(",", ":")).encode())
        return f"{head}.{body}.{self.sign(head, body)}"

    def read(self, token):
        """The claims of a token that we have signed and that has not expired."""
        head, body, signature = (token.split(".") + ["", ""])[:3]
        if not hmac.compare_digest(self.sign(head, body).encode(), signature.encode()):
            raise Refused(401, "The token is not accepted.")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if claims["exp"] < time.time():
            raise Refused(401, "The token has expired.")
        return claims

    def sign(self, head, body):
        return encode(hmac.new(self.secret, f"{head}.{body}".encode(), hashlib.sha256).digest())


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class App:
    def __init__(self, options):
        self.gateway = options.gateway
        self.tenants = options.tenant
        self.database = Database(options.psql, options.host)
        self.tokens = Tokens(os.environ["RTE_JWT_SECRET"])
        self.names = {f"127.0.0.1:{options.port}", f"localhost:{options.port}"}
        # Listed once: no path of a request ever reaches the file system.
        self.files = {f"/{file.name}": file for file in HERE.iterdir() if file.suffix in TYPES}
        self.files["/"] = self.files["/index.html"]
        sockets = self.gateway.replace("http", "ws", 1)
        self.policy = (
            f"default-src 'none'; script-src 'self' {self.gateway}; connect-src 'self' {self.gateway} {sockets}; style-src 'self'; "
            "img-src 'self' data:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def companies(self):
        """What the page needs before anybody is somebody: where the gateway is, and who may log in."""
        people = lambda tenant: [
            {"id": one["id"], "name": one["name"], "hue": one["hue"], "teams": one["claims"]["teams"]}
            for one in self.database.logins(tenant)
        ]
        return {"gateway": self.gateway, "companies": [{"tenant": tenant, "people": people(tenant)} for tenant in self.tenants]}

    def log_in(self, asked):
        tenant = asked.get("tenant")
        found = [one for one in self.database.logins(tenant) if one["id"] == asked.get("user")] if tenant in self.tenants else []
        if not found:
            raise Refused(403, "Nobody of this name can log in.")
        return {"token": self.tokens.make(found[0]["claims"])}

    def act(self, action, asked, authorization):
        claims = self.tokens.read((authorization or "").removeprefix("Bearer "))
        values = {name: asked.get(name) for name in ACTIONS[action]}
        for name, pattern in ACTIONS[action].items():
            if not isinstance(values[name], str) or not pattern.fullmatch(values[name]):
                raise Refused(400, f"{name} is missing, too long, or not of its kind.")
        return {"id": self.database.act(claims, action, values)}


class Handler(BaseHTTPRequestHandler):
    app = None
    timeout = 20

    def do_GET(self):
        self.answered(lambda: self.get())

    def do_POST(self):
        self.answered(lambda: self.post())

    def answered(self, work):
        """Whatever happens, the browser gets an answer."""
        try:
            # A page of a stranger whose name leads to this machine says another host, and one of another origin says so.
            if self.headers.get("Host") not in self.app.names:
                raise Refused(421, "This server is not known by that name.")
            work()
        except Refused as refused:
            self.say(refused.status, {"error": str(refused)})
        except (subprocess.TimeoutExpired, OSError):
            self.say(503, {"error": "The database does not answer just now."})

    def get(self):
        path = self.path.partition("?")[0]
        if path == "/api/companies":
            self.say(200, self.app.companies())
        elif path in self.app.files:
            file = self.app.files[path]
            self.send(200, f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        else:
            raise Refused(404, "There is nothing here.")

    def post(self):
        if self.headers.get("Origin", f"http://{self.headers['Host']}") != f"http://{self.headers['Host']}":
            raise Refused(403, "Pages of other origins may not do that.")
        action = self.path.removeprefix("/api/")
        if action != "login" and action not in ACTIONS:
            raise Refused(404, "There is nothing here.")
        asked = self.read_body()
        if action == "login":
            self.say(200, self.app.log_in(asked))
        else:
            self.say(200, self.app.act(action, asked, self.headers.get("Authorization")))

    def read_body(self):
        length = self.headers.get("Content-Length", "")
        if not NUMBER.fullmatch(length) or int(length) > LARGEST_BODY:
            raise Refused(413, "The request is too large.")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            raise Refused(400, "The request is no JSON object.")
        return asked

    def say(self, status, body):
        self.send(status, "application/json", json.dumps(body).encode())

    def send(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", self.app.policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Silent: a log line would hold what somebody has typed."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gateway", required=True, help="its address, such as http://127.0.0.1:8082")
    parser.add_argument("--psql", default="psql")
    parser.add_argument("--host", required=True, help="host or socket directory of the server")
    parser.add_argument("--tenant", action="append", required=True, help="a tenant and its database; may be repeated")
    options = parser.parse_args()
    Handler.app = App(options)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
