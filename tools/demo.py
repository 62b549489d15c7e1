#!/usr/bin/env python3
"""`make run`: a throw-away server with live tables under a gentle load, until Ctrl-C.

It has an application, made with the browser client (examples/tasks), with a backend of its own; and pages that the gateway
serves: the dashboard, pgbench's tables, which anybody may read, and the orders of two shops as four people with different rights
see them, each with a token that is made here.

Everything lives in one temporary directory and in child processes of this script. When it ends, for whatever
reason it still can act on, both are gone. If it is killed outright, the kernel tells its children.
"""

import argparse
import base64
import contextlib
import ctypes
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from toolchain import ROOT, Failure, cli, find_pg_config, give_to_postgres, home, install, locked, run, say, unprivileged

FIRST_PORT = 8082
FIRST_APP_PORT = 8092
TRANSACTIONS_PER_SECOND = 20
# To be followed with the eye.
EVENTS_OF_A_SHOP_PER_SECOND = 0.5
EVENTS_ON_THE_BOARDS_PER_SECOND = 0.8
A_DAY_S = 24 * 3600
A_YEAR_S = 365 * A_DAY_S
DATABASE = "postgres"
# Tenants, and the databases of the same names.
SHOPS = ["acme", "globex"]
# What pgbench is told, and its standard input.
TABLES_LOAD = ["-c", "2", "-R", str(TRANSACTIONS_PER_SECOND), "-M", "prepared"], os.devnull
SHOP_LOAD = ["-c", "1", "-R", str(EVENTS_OF_A_SHOP_PER_SECOND), "-f", "-"], ROOT / "sql/demo_shop_load.sql"
TASKS_LOAD = ["-c", "1", "-R", str(EVENTS_ON_THE_BOARDS_PER_SECOND), "-f", "-"], ROOT / "sql/demo_tasks_load.sql"
# By name: the database, and its load.
LOADS = {"tables": (DATABASE, TABLES_LOAD)}
LOADS |= {f"{shop}-orders": (shop, SHOP_LOAD) for shop in SHOPS}
LOADS |= {f"{shop}-tasks": (shop, TASKS_LOAD) for shop in SHOPS}
START_LIMIT_S = 60

# The panes of the second view: what the tokens claim. The policies in sql/demo_shop.sql go by it.
VISITORS = [
    {"name": "Alice", "sub": "alice", "role": "manager", "tenant": "acme"},
    {"name": "Carl", "sub": "carl", "role": "clerk", "tenant": "acme"},
    {"name": "Gwen", "sub": "gwen", "role": "manager", "tenant": "globex"},
    {"name": "Cleo", "sub": "cleo", "role": "clerk", "tenant": "globex"},
]
COMPARE_TITLE = "Two shops, four visitors"
COMPARE_NOTE = (
    "Two tenants, each with a database of its own. Managers see every order of their shop, clerks those that they "
    "handle, and not what an item cost. Postgres decides for each change."
)

SETTINGS = """
# The way in for programs of this machine only: a socket in a directory of our own, no TCP port to collide with.
listen_addresses = ''
unix_socket_directories = '{directory}'
shared_preload_libraries = 'whagons_rte'
rte.landlord_database = '{database}'
rte.anon_role = 'web_anon'
rte.listen_addresses = '127.0.0.1'
rte.port = {port}
# The application comes from another port, which is another origin.
rte.allowed_origins = 'http://127.0.0.1:{app_port}, http://localhost:{app_port}'
# Who may come with a token: whoever can sign one with this secret, as a role that is granted to the authenticator.
rte.jwt_secret = '{secret}'
rte.authenticator_role = 'authenticator'
# Workers for three databases at once.
max_worker_processes = 16
log_line_prefix = '%m [%p] %b '
"""


class Demo:
    """What has been started, and how it is taken down again."""

    def __init__(self, bindir):
        self.bindir = bindir
        self.port = free_port(FIRST_PORT)
        self.app_port = free_port(FIRST_APP_PORT)
        self.secret = secrets.token_hex(32)
        self.compare = compare_path(self.secret)
        # Short, because the path of a socket has an upper limit of about a hundred bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="whagons_rte-"))
        give_to_postgres(self.directory)
        self.log = self.directory / "server.log"
        self.server = None
        self.app = None
        self.loads = {}

    def environment(self):
        """Without the PG* variables of whoever calls: they would lead to another server."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")}

    def program(self, name, *arguments, text=""):
        """A program of this Postgres, run to its end with `text` as its input."""
        options = {"cwd": self.directory, "env": self.environment(), **unprivileged()}
        return run([self.bindir / name, *arguments], input=text, **options)

    def script(self, name, database=DATABASE, before=""):
        """Runs a file of SQL. By standard input: the clone may lie where the postgres user cannot read."""
        text = before + (ROOT / "sql" / name).read_text()
        self.program("psql", *self.where(), "-d", database, "-X", "-q", "-v", "ON_ERROR_STOP=1", text=text)

    def where(self):
        return ["-h", str(self.directory), "-U", "postgres"]

    def start(self, name, arguments, log, at_our_death, stdin=subprocess.DEVNULL):
        """A program that runs on, in a session of its own, so that Ctrl-C reaches it through us, in order."""
        with open(log, "ab") as output:
            return subprocess.Popen(
                [str(self.bindir / name), *arguments],
                cwd=self.directory,
                env=self.environment(),
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(at_our_death),
                **unprivileged(),
            )

    def make_cluster(self):
        say("making a throw-away cluster")
        data = self.directory / "data"
        self.program("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        with open(data / "postgresql.conf", "a") as file:
            values = {"directory": self.directory, "database": DATABASE, "secret": self.secret}
            file.write(SETTINGS.format(port=self.port, app_port=self.app_port, **values))

    def start_server(self):
        self.log.touch()
        self.server = self.start("postgres", ["-D", str(self.directory / "data")], self.log, signal.SIGINT)
        self.wait_for("the server", lambda: self.answers_sql())

    def fill(self):
        say("filling pgbench's tables and registering them")
        self.program("pgbench", *self.where(), "-i", "-s", "1", "-q", DATABASE)
        self.script("demo.sql")
        say("opening two shops")
        for shop in SHOPS:
            self.program("createdb", *self.where(), shop)
            self.script("demo_shop.sql", shop)
            self.script("demo_tasks.sql", shop)
        # Nothing in them needs quoting. Not as arguments, which everybody on the machine can read.
        self.script("demo_tenants.sql", before=f"\\set title '{COMPARE_TITLE}'\n\\set address '{self.compare}'\n")

    def start_loads(self):
        """Starts what does not run: at first all, later what ended because the server crashed and came back."""
        for name, (database, (options, script)) in LOADS.items():
            if name not in self.loads or self.loads[name].poll() is not None:
                arguments = [*self.where(), "-n", *options, "-T", str(A_YEAR_S), database]
                log = self.directory / f"load-{name}.log"
                with open(script) as stdin:
                    self.loads[name] = self.start("pgbench", arguments, log, signal.SIGTERM, stdin)

    def start_app(self):
        """The application's backend. As whoever we are: it reads the clone, where the postgres user may not."""
        command = [sys.executable, ROOT / "examples/tasks/server.py", "--port", str(self.app_port)]
        command += ["--gateway", f"http://127.0.0.1:{self.port}", "--psql", self.bindir / "psql", "--host", self.directory]
        for shop in SHOPS:
            command += ["--tenant", shop]
        with open(self.directory / "app.log", "ab") as output:
            self.app = subprocess.Popen(
                [str(part) for part in command],
                env={**self.environment(), "RTE_JWT_SECRET": self.secret},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )

    def answers_sql(self):
        with contextlib.suppress(Failure):
            return self.program("psql", *self.where(), "-d", DATABASE, "-X", "-A", "-t", "-c", "SELECT 1") == "1"
        return False

    def answers_http(self, port, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_for(self, what, condition):
        until = time.monotonic() + START_LIMIT_S
        while not condition():
            if self.server.poll() is not None:
                raise Failure(f"the server ended while we waited for {what}\n{self.end_of_log()}")
            if self.app and self.app.poll() is not None:
                raise Failure(f"the application's backend ended while we waited for {what}\n{self.end_of_log('app.log')}")
            if time.monotonic() > until:
                raise Failure(f"{what} did not answer within {START_LIMIT_S} s\n{self.end_of_log()}")
            time.sleep(0.1)

    def end_of_log(self, name="server.log"):
        return "\n".join((self.directory / name).read_text(errors="replace").splitlines()[-25:])

    def watch(self):
        """Returns when the server has ended or whoever started us is gone; keeps the loads running until then."""
        starter = Starter()
        while self.server.poll() is None:
            if starter.is_gone():
                return
            # After a crash that somebody tries out, the server comes back by itself, and so do the loads.
            if any(load.poll() is not None for load in self.loads.values()) and self.answers_sql():
                self.start_loads()
            if self.app.poll() is not None:
                self.start_app()
            time.sleep(0.5)
        raise Failure(f"the server ended\n{self.end_of_log()}")

    def stop(self):
        say("stopping")
        others = [*self.loads.values(), *([self.app] if self.app else [])]
        for other in others:
            other.terminate()
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(5)
        if self.server:
            # Fast, immediate, and last the one that leaves Postgres no say.
            for sign, patience in ((signal.SIGINT, 20), (signal.SIGQUIT, 10), (signal.SIGKILL, 5)):
                if self.server.poll() is None:
                    self.server.send_signal(sign)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.server.wait(patience)
        for other in others:
            if other.poll() is None:
                other.kill()
                other.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            print(f"could not remove {self.directory}", file=sys.stderr)


class Starter:
    """The `make` that started us, if one did.

    From a terminal Ctrl-C reaches every process. But a SIGINT that is sent to make alone makes it wait for
    us without telling us. It resets its handler as it does so, and that can be seen.
    """

    def __init__(self):
        self.pid = os.getppid()
        self.is_make = self.read("comm").strip() in ("make", "gmake")
        self.caught_at_start = self.catches_sigint()

    def read(self, name):
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/{name}").read_text()
        return ""

    def catches_sigint(self):
        for line in self.read("status").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
        return False

    def is_gone(self):
        if not self.is_make:
            return False
        return os.getppid() != self.pid or (self.caught_at_start and not self.catches_sigint())


def die_with_parent(sign):
    """In the child, before exec: a signal for when this script dies without having been able to stop it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(sign))


def free_port(first):
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise Failure(f"no free port from {first} to {first + 99}")


def token(secret, claims):
    """A JSON Web Token of these claims, signed with HS256."""

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    parts = [encode(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256"}, claims)]
    signature = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, encode(signature)]).decode()


def compare_path(secret):
    """The second view's address. Behind the `#`, which a browser does not send, it says who looks."""
    expires = int(time.time()) + A_DAY_S
    pairs = [("title", COMPARE_TITLE), ("note", COMPARE_NOTE), ("table", "orders")]
    for visitor in VISITORS:
        pairs += [("token", token(secret, {**visitor, "exp": expires})), ("tenant", visitor["tenant"])]
    return f"/compare#{urllib.parse.urlencode(pairs)}"


def tell(demo):
    psql = f"{demo.bindir / 'psql'} -h {demo.directory} -U postgres"
    address = f"http://127.0.0.1:{demo.port}"
    print(
        f"""
  An application    http://127.0.0.1:{demo.app_port}/
  The dashboard     {address}/
  Tables, live      {address}/tables

  Open the application in two windows, as two people. Hand a board to the leads while you look: it leaves Bob's copy with all
  its tasks and comments in one commit, and stays in Alice's.

    {psql} acme \\
      -c "UPDATE boards SET team = 'leads' WHERE title = 'Office move'"

  The tables are pgbench's, in which {TRANSACTIONS_PER_SECOND} transactions a second commit. Change something yourself:

    {psql} {DATABASE} \\
      -c "UPDATE pgbench_branches SET bbalance = 0"

  A link at the top of their page leads to the orders of two tenants, as two users of each with different rights see them, side by
  side. Hand all orders of a shop to one clerk, or let its clerks see what items cost:

    {psql} acme \\
      -c "UPDATE orders SET handled_by = 'carl'"
    {psql} acme \\
      -c "GRANT SELECT (cost) ON orders TO clerk"

  What the server says: {demo.log}
  Ctrl-C stops all of it and removes it.
""",
        flush=True,
    )


def interrupt(_signal, _frame):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pg-config", help="build for and install into this server, instead of a private Postgres 18")
    arguments = parser.parse_args()
    # Set explicitly: a shell without a terminal starts background jobs with SIGINT ignored.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, interrupt)

    if arguments.pg_config:
        pg_config = find_pg_config(arguments.pg_config)
        bindir = Path(run([pg_config, "--bindir"]))
        turn = contextlib.nullcontext()
    else:
        bindir = home(18)
        pg_config = bindir / "pg_config"
        # From here until the library is loaded, a test run of another clone must not swap it.
        turn = locked("use-18")

    demo = None
    try:
        with turn:
            install(pg_config)
            demo = Demo(bindir)
            demo.make_cluster()
            demo.start_server()
            demo.fill()
        demo.start_loads()
        demo.start_app()
        demo.wait_for("the gateway", lambda: demo.answers_http(demo.port, "/health"))
        demo.wait_for("the application", lambda: demo.answers_http(demo.app_port, "/api/companies"))
        tell(demo)
        demo.watch()
    except KeyboardInterrupt:
        pass
    finally:
        # A second Ctrl-C must not leave half of it behind.
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)
        if demo:
            demo.stop()


if __name__ == "__main__":
    cli(main)
