#!/usr/bin/env python3
"""Runs the checks and tests: `check.py lint | unit | test [15 16 18]`.

Every step runs even if an earlier one failed, so that one run shows everything that is wrong. The last
line is always `N passed, N failed`, summed over all test runs; a step that fails without naming a failed test
(a build that breaks, a test process that crashes, a lint) counts as one failure.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib

from toolchain import ROOT, TESTED, Failure, cargo_environment, chromium, cli, client_packages, home, install
from toolchain import libclang_environment, locked, locked_flag, say

# Crates that must build and be tested without Postgres.
PURE = ["rte-protocol", "rte-core", "rte-gateway", "rte-testkit"]
BENCH = ["rte-bench", "rte-peer-rust-notify"]
# Which packages a crate must not depend on, and why the architecture stands on it:
# only the shell may talk to Postgres, and what decides must not know sockets or time.
BORDERS = {
    "rte-protocol": ["pgrx", "tokio"],
    "rte-core": ["pgrx", "tokio"],
    "rte-gateway": ["pgrx"],
}
# Tests of what both ways of capture must do alike; they run once by triggers, with all others, and once from the WAL.
IN_BOTH_MODES = ["capture", "cut", "oracle", "tpcb", "durability", "ddl", "away", "kills", "log_bounds", "lifecycle"]
# The version between the oldest and the newest brings the fewest surprises.
FEWER = {16: ["capture", "cut", "oracle", "durability"]}
# A run that hangs would otherwise use up the whole CI time without a word.
TEST_LIMIT_S = int(os.environ.get("RTE_TEST_LIMIT_S", 40 * 60))

RESULT = re.compile(r"^test result: .*?(\d+) passed; (\d+) failed")
# What vitest sums up its tests with, behind colours where there are some.
VITEST = re.compile(r"^\s*Tests\s+(?:(\d+) failed\D+)?(?:(\d+) passed)?")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Report:
    """Counts what the steps bring."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.broken = []

    def step(self, name, action):
        """Runs one step and says whether it went well. `action` returns false or raises a Failure if it did not."""
        say(name)
        before = self.failed
        try:
            good = action()
        except Failure as failure:
            print(f"error: {failure}", file=sys.stderr, flush=True)
            good = False
        if not good:
            self.broken.append(name)
            if self.failed == before:
                self.failed += 1
        return good

    def cargo(self, *arguments, **environment):
        """Runs cargo; its output streams through, and `test result:` lines are counted."""
        # `cargo fmt` resolves nothing and does not know the flag.
        command = ["cargo", arguments[0], *(locked_flag() if arguments[0] != "fmt" else []), *arguments[1:]]
        environment = {**cargo_environment(), **{name: str(value) for name, value in environment.items()}}
        if sys.stdout.isatty():
            environment.setdefault("CARGO_TERM_COLOR", "always")
        return self.counted(command, ROOT, environment)

    def counted(self, command, directory, environment):
        """Runs a command; its output streams through, and what it says of its tests is counted."""
        child = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        late = threading.Timer(TEST_LIMIT_S, end, [child])
        late.start()
        try:
            for line in child.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                if found := RESULT.match(line):
                    self.passed += int(found[1])
                    self.failed += int(found[2])
                elif found := VITEST.match(COLOURS.sub("", line)):
                    self.passed += int(found[2] or 0)
                    self.failed += int(found[1] or 0)
            code = child.wait()
        except BaseException:
            end(child)
            raise
        finally:
            late.cancel()
        if code == -signal.SIGTERM:
            raise Failure(f"ended after {TEST_LIMIT_S} s: {' '.join(command)}")
        return code == 0

    def finish(self):
        for name in self.broken:
            print(f"FAILED: {name}", flush=True)
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)


def end(child):
    """Ends a child with all that it started; it leads a session of its own."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def packages(names):
    return [part for name in names for part in ("-p", name)]


def lint(report, shell_version):
    report.step("formatting", lambda: report.cargo("fmt", "--all", "--check"))
    report.step("borders between the crates", borders)
    report.step("documents against the code", documents)
    report.step("the browser client: types, and the bundle that the library carries", bundle)
    report.step(
        "clippy on the crates",
        lambda: report.cargo(
            "clippy", *packages([*PURE, "rte-tests", *BENCH]), "--all-targets", "--features", "rte-tests/browser,rte-bench/postgres",
            "--", "-D", "warnings"
        ),  # fmt: skip
    )
    # It is clippy that enforces a reason beside each `unsafe`, and the shell is where they are.
    report.step(f"clippy on the Postgres shell ({shell_version})", lambda: clippy_shell(report, shell_version))


def clippy_shell(report, version):
    return report.cargo(
        "clippy", "-p", "whagons_rte", "--lib", "--no-default-features", "--features", f"pg{version}",
        PGRX_PG_CONFIG_PATH=home(version) / "pg_config", **libclang_environment(),
    )  # fmt: skip


def documents():
    return subprocess.run([sys.executable, ROOT / "tools/check_docs.py"], cwd=ROOT).returncode == 0


def bundle():
    """The gateway's library holds the bundle as it is in the tree: it must be what the sources give."""
    client = client_packages()
    names = [client / "bundle" / name for name in ("client.js", "client-memory.js")]
    before = [name.read_bytes() if name.exists() else None for name in names]
    for command in (["npm", "run", "--silent", "check"], ["npm", "run", "--silent", "build"]):
        if subprocess.run(command, cwd=client).returncode != 0:
            return False
    stale = [name for name, old in zip(names, before, strict=True) if name.read_bytes() != old]
    for name in stale:
        print(f"{name.relative_to(ROOT)} was not what the sources give; it is now: commit it", flush=True)
    return not stale


def borders():
    good = True
    for crate, forbidden in BORDERS.items():
        command = ["cargo", "tree", *locked_flag(), "-p", crate, "-e", "normal,build", "--prefix", "none"]
        tree = subprocess.run(command, cwd=ROOT, env=cargo_environment(), stdout=subprocess.PIPE, text=True)
        if tree.returncode != 0:
            return False
        names = {line.split()[0] for line in tree.stdout.splitlines() if line.strip()}
        for name in sorted(names):
            if any(name == word or name.startswith(f"{word}-") for word in forbidden):
                print(f"border: {crate} must not depend on {name}", flush=True)
                good = False
    for crate in PURE:
        if not forbids_unsafe(ROOT / "crates" / crate.removeprefix("rte-")):
            print(f"border: {crate} does not forbid unsafe_code", flush=True)
            good = False
    return good


def forbids_unsafe(directory):
    """By the attribute, or by the workspace's lints if the crate takes them over."""
    if "#![forbid(unsafe_code)]" in (directory / "src/lib.rs").read_text():
        return True
    takes_over = tomllib.loads((directory / "Cargo.toml").read_text()).get("lints", {}).get("workspace")
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"].get("lints", {})
    return bool(takes_over) and workspace.get("rust", {}).get("unsafe_code") == "forbid"


def unit(report):
    report.step("unit tests of the crates", lambda: report.cargo("test", *packages([*PURE, *BENCH]), "--no-fail-fast"))
    report.step("unit tests of the browser client", lambda: client_tests(report))


def client_tests(report):
    return report.counted(["npx", "--no-install", "vitest", "run"], client_packages(), os.environ.copy())


def on_postgres(report, version, browser):
    def build_and_install():
        install(home(version) / "pg_config")
        return True

    def tests():
        return report.cargo("test", "-p", "rte-tests", "--no-fail-fast", RTE_PG_BIN=home(version))

    def benchmarks():
        command = ["test", "-p", "rte-bench", "--features", "postgres", "--test", "smoke"]
        return report.cargo(*command, RTE_PG_BIN=home(version))

    def from_the_wal():
        names = [part for name in FEWER.get(version, IN_BOTH_MODES) for part in ("--test", name)]
        command = ["test", "-p", "rte-tests", *names, "--no-fail-fast"]
        return report.cargo(*command, RTE_PG_BIN=home(version), RTE_CAPTURE="wal")

    def in_browser():
        client_packages()
        command = ["test", "-p", "rte-tests", "--features", "browser", "--test", "browser", "--no-fail-fast"]
        return report.cargo(*command, RTE_PG_BIN=home(version), RTE_CHROMIUM=chromium())

    # One run at a time per home: another clone's test run must not swap the library under ours.
    with locked(f"use-{version}"):
        if report.step(f"the extension on Postgres {version}: build and install", build_and_install):
            report.step(f"tests on Postgres {version}", tests)
            report.step(f"tests on Postgres {version}, captured from the WAL", from_the_wal)
            if browser:
                report.step(f"the benchmarks' runner on Postgres {version}", benchmarks)
                report.step(f"the client in a browser, on Postgres {version}", in_browser)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["lint", "unit", "test"])
    parser.add_argument("versions", nargs="*", type=int, help=f"default: {' '.join(map(str, TESTED))}")
    arguments = parser.parse_args()
    versions = arguments.versions or TESTED
    report = Report()
    if arguments.what in ("lint", "test"):
        lint(report, max(versions))
    if arguments.what in ("unit", "test"):
        unit(report)
    if arguments.what == "test":
        for version in versions:
            # The client is the same for all of them.
            on_postgres(report, version, browser=version == max(versions))
    report.finish()


if __name__ == "__main__":
    cli(main)
