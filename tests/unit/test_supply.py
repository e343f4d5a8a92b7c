"""What is deployed is pinned by hash, and nothing secret lies among the files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+?)(?P<marker> ; .+)?((?: --hash=sha256:[0-9a-f]{64})+)$"
)


def logical_lines(text: str) -> list[str]:
    """Lines as pip reads them: joined where they end in a backslash, without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [
        re.sub(r"\s+", " ", line).strip() for line in joined.splitlines() if line.strip() and line[0] != "#"
    ]


def pinned() -> dict[str, Version]:
    lines = logical_lines((ROOT / "requirements.txt").read_text())
    found = [PIN.match(line) for line in lines]
    assert [line for line, pin in zip(lines, found, strict=True) if pin is None] == []
    return {canonicalize_name(pin["name"]): Version(pin["version"]) for pin in found if pin}


def declared() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from map(Requirement, project["dependencies"] + project["optional-dependencies"]["embedded"])


def test_every_dependency_is_pinned_by_hash_to_a_version_that_is_asked_for() -> None:
    pins = pinned()
    for wanted in declared():
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), str(wanted)


def test_the_pins_name_no_registry() -> None:
    """Where packages come from is for whoever deploys to say; the hashes say what they must be."""
    text = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|--trusted-host| @ |^-", text, re.M)


# Secrets

SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of age": r"AGE-SECRET-KEY-1[0-9A-Z]{50,}",
    "an API key of ours": r"fog_[0-9a-f]{8,}_[A-Za-z0-9_-]{30,}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a token of PyPI": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a key of Stripe": r"\b[sr]k_live_[0-9A-Za-z]{20,}",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    "a password in a URL": r"\b(?:postgres(?:ql)?|rediss?|https?)://[^\s:/@\"'{}<]*:[^\s@/\"'{}$<*]{12,}@",
}


def secrets_in(text: str) -> list[str]:
    return [what for what, pattern in SECRETS.items() if re.search(pattern, text)]


def tracked() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    yield from (ROOT / name.decode() for name in listed.stdout.split(b"\0") if name)


def test_no_file_holds_a_secret() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    found = {}
    for path in tracked():
        if path.is_file() and (what := secrets_in(path.read_bytes().decode("utf-8", "replace"))):
            found[str(path.relative_to(ROOT))] = what
    assert found == {}


# Put together here, so that this file holds none.
EXAMPLES = {
    "a private key": "-----BEGIN " + "PRIVATE KEY-----",
    "a key of age": "AGE-SECRET-" + "KEY-1" + "Q" * 58,
    "an API key of ours": "fog_" + "0123456789abcdef_" + "x" * 43,
    "a key of AWS": "AKIA" + "A" * 16,
    "a token of GitHub": "ghp_" + "a" * 36,
    "a token of GitLab": "glpat-" + "a" * 20,
    "a token of Slack": "xoxb-" + "1" * 12,
    "a token of PyPI": "pypi-" + "A" * 60,
    "a key of Google": "AIza" + "B" * 35,
    "a key of Stripe": "sk_" + "live_" + "c" * 24,
    "a signed token": "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 43,
    "a password in a URL": "postgresql://fog:" + "Zq8-" * 5 + "@db/fog",
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_in_a_file_is_found(what: str) -> None:
    assert secrets_in(f'NAME = "{EXAMPLES[what]}"  # for now\n') == [what]
