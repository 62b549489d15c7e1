#!/usr/bin/env python3
"""Checks that the documents tell the truth about what can be read from the source.

Every setting of src/guc is in docs/SETTINGS.md with its default, range and context, every error and close code
of crates/protocol is in docs/PROTOCOL.md, and nothing is in there that is not in the source. Links lead to files
that exist, and the tests that ARCHITECTURE.md names are tests.

Standard library only. Exits with 1 and a line for each fault.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/PROTOCOL.md", "docs/SETTINGS.md", "docs/TENANTS.md", "docs/CAPTURE.md"]
# What Postgres multiplies a unit with, by the base unit of the setting.
UNITS = {
    "ms": {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000},
    "s": {"s": 1, "min": 60, "h": 3600, "d": 86_400},
    "min": {"min": 1, "h": 60, "d": 1440},
    "kB": {"kB": 1, "MB": 1 << 10, "GB": 1 << 20, "TB": 1 << 30},
    "MB": {"MB": 1, "GB": 1 << 10, "TB": 1 << 20},
    "": {},
}
# How src/guc writes the units.
FLAGS = {"none": "", "ms": "ms", "kb": "kB", "UNIT_MS": "ms", "UNIT_S": "s", "UNIT_MIN": "min", "UNIT_MB": "MB", "default()": ""}
CONTEXTS = {"postmaster()": "restart", "Postmaster": "restart", "Sighup": "reload", "Suset": "reload"}


class Setting:
    """What is declared or documented of a setting; for texts `low` and `high` are none."""

    def __init__(self, default, low, high, unit, takes_effect):
        self.default, self.low, self.high, self.unit, self.takes_effect = default, low, high, unit, takes_effect


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def number(expression):
    """The value of an integer expression of Rust's: `24 * 60`, `1 << 20`, `10_000`."""
    if not re.fullmatch(r"[0-9_ *<+()-]+", expression):
        raise ValueError(f"not a constant: {expression}")
    return int(eval(expression, {"__builtins__": {}}))


def declared_settings():
    """Settings by name, from the source."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src/guc").rglob("*.rs")))
    texts = dict(re.findall(r'^(?:pub\(super\) )?static (\w+): Text = .*?Some\(c"([^"]*)"\)\);', source, re.M))
    integers = dict(re.findall(r"^(?:pub\(super\) )?static (\w+): Int = .*?::new\(([^;]+)\);", source, re.M))
    switches = dict(re.findall(r"^(?:pub\(super\) )?static (\w+): Switch = .*?::new\((true|false)\);", source, re.M))
    choices = dict(re.findall(r"^(?:pub\(super\) )?static (\w+): GucSetting<\w+> = .*?::new\(\w+::(\w+)\);", source, re.M))
    settings = {}
    # The two that need more than the helpers give.
    for name, static, context in re.findall(
        r'GucRegistry::define_string_guc\(c"(rte\.\w+)", what, c"", &(\w+), (\w+), \w+\);', source
    ):
        settings[name] = Setting(texts[static], None, None, "", CONTEXTS[context])
    for name, static, context in re.findall(
        r'GucRegistry::define_enum_guc\(\s*c"(rte\.\w+)",\s*c"[^"]*",\s*c"",\s*&(\w+),\s*(\w+),', source
    ):
        settings[name] = Setting(choices[static].lower(), None, None, "", CONTEXTS[context])
    for kind, arguments in re.findall(r"^    (text|int|switch)\((.*?)\);$", source, re.M | re.S):
        name = re.match(r'\s*c"(rte\.\w+)",\s*c"[^"]*",\s*', arguments)
        rest = [part.strip() for part in arguments[name.end() :].strip().rstrip(",").split(",")]
        static = rest[0].lstrip("&")
        if kind == "text":
            settings[name[1]] = Setting(texts[static], None, None, "", CONTEXTS[rest[1]])
        elif kind == "switch":
            default = "on" if switches[static] == "true" else "off"
            settings[name[1]] = Setting(default, None, None, "", CONTEXTS[rest[1]])
        else:
            low, high, context, flag = rest[1:]
            unit = FLAGS[flag.rsplit("::", 1)[-1]]
            settings[name[1]] = Setting(number(integers[static]), number(low), number(high), unit, CONTEXTS[context])
    if sorted(settings) != sorted(re.findall(r'"(rte\.\w+)"', source)):
        raise ValueError("src/guc declares settings in a form that this program does not read")
    return settings


DOCUMENTED = re.compile(
    r"^### `(rte\.\w+)`\n\n"
    r"Default (?:`([^`]+)`|empty)(?:, (?:range `([^`]+)`(?: \([^)]*\))? to `([^`]+)`|one of [^.]*))?\. "
    r"Takes effect at (reload|restart)\.$",
    re.M,
)


def amount(text, unit):
    """A documented value in the setting's base unit; none where it is not one."""
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", text or "")
    if not found:
        return None
    if found[2] == "":
        return int(found[1]) if unit == "" or found[1] == "0" else None
    factor = UNITS[unit].get(found[2])
    return int(found[1]) * factor if factor else None


def check_settings():
    text = read("docs/SETTINGS.md")
    declared = declared_settings()
    documented = {found[1]: found for found in DOCUMENTED.finditer(text)}
    for name in re.findall(r"^### `(rte\.\w+)`", text, re.M):
        if name not in declared:
            yield f"docs/SETTINGS.md: {name} is not a setting"
        elif name not in documented:
            yield f"docs/SETTINGS.md: {name} has no line of the form 'Default `…`, range `…` to `…`. Takes effect at …'"
    for name, setting in declared.items():
        if name not in documented:
            yield f"docs/SETTINGS.md: {name} is missing"
            continue
        _, default, low, high, takes_effect = documented[name].groups()
        if setting.low is None:
            faults = [("default", default or "", setting.default)]
        else:
            unit = setting.unit
            faults = [
                ("default", amount(default, unit), setting.default),
                ("lower end", amount(low, unit), setting.low),
                ("upper end", amount(high, unit), setting.high),
            ]
        faults.append(("effect", takes_effect, setting.takes_effect))
        for what, said, true in faults:
            if said != true:
                yield f"docs/SETTINGS.md: {name}: the {what} is {true} {setting.unit}".rstrip()
    everywhere = {name for path in DOCUMENTS for name in re.findall(r"\brte\.\w+_\w+|\brte\.port\b", read(path))}
    others = set(re.findall(r"\brte\.\w+", read("sql/whagons_rte--0.1.0.sql"))) if sql_exists() else set()
    for name in sorted(everywhere - set(declared) - others):
        if not any(other.startswith(name) for other in others):
            yield f"{name} is named in the documents and is neither a setting nor in sql/"


def sql_exists():
    return (ROOT / "sql/whagons_rte--0.1.0.sql").exists()


def table(text, heading):
    """First cells of the rows of the table below a heading, without their backticks."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    rows = re.findall(r"^\| ([^|]+?) \|", section[1] if section else "", re.M)
    return [row.strip("`") for row in rows[1:]]


def check_codes():
    text = read("docs/PROTOCOL.md")
    errors = set(re.findall(r'^    \w+ = "([A-Z_]+)",', read("crates/protocol/src/wire/code.rs"), re.M))
    closes = set(re.findall(r"Self::\w+ => (\d{4}),", read("crates/protocol/src/wire/close.rs")))
    for heading, true in (("Error codes", errors), ("Close codes", closes)):
        if not true:
            yield f"crates/protocol: no {heading.lower()} found"
        said = table(text, heading)
        for code in sorted(true - set(said)):
            yield f"docs/PROTOCOL.md: {heading}: {code} is missing"
        for code in sorted(set(said) - true):
            yield f"docs/PROTOCOL.md: {heading}: {code} is not in crates/protocol"
    mentioned = {word for word in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", text)}
    for code in sorted(mentioned - errors):
        yield f"docs/PROTOCOL.md: {code} is not an error code"


def anchor(heading):
    """As the common hosts make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def check_links():
    for path in DOCUMENTS:
        text = re.sub(r"^ *```.*?^ *```", "", read(path), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)]+)\)", text):
            file, _, fragment = link.partition("#")
            if "://" in link:
                continue
            target = (ROOT / path).parent / file if file else ROOT / path
            if not target.exists():
                yield f"{path}: the link to {link} leads nowhere"
            elif fragment and target.suffix == ".md":
                anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)}
                if fragment not in anchors:
                    yield f"{path}: the link to {link} leads to no heading"


def check_tests():
    text = read("ARCHITECTURE.md")
    tests = set()
    for directory in ("tests", "crates"):
        for file in (ROOT / directory).rglob("*.rs"):
            tests.update(re.findall(r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*fn (\w+)", file.read_text(encoding="utf-8")))
    for name in re.findall(r"`([a-z]+(?:_[a-z]+){3,})`", text):
        if name not in tests:
            yield f"ARCHITECTURE.md: there is no test {name}"
    for file in re.findall(r"`((?:crates|tests|pg_test|src|tools|sql)/[\w./]*)`", text):
        if not (ROOT / file).exists():
            yield f"ARCHITECTURE.md: there is no {file}"


def main():
    faults = [fault for check in (check_settings, check_codes, check_links, check_tests) for fault in check()]
    for fault in dict.fromkeys(faults):
        print(fault, flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
