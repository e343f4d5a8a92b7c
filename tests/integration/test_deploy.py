"""The files of ops/deploy hold together, and the tools that read them take them: those that are here.

`make tools` installs what these tests look for (README of ops/deploy): where a tool is missing, its test says so.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.migrate import Revision, Step, StepRefused, revisions, target_of
from ops.servers._valkey import _RIGHTS
from ops.settings import Settings
from tests.running import ROOT

DEPLOY = ROOT / "ops" / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
CHART = DEPLOY / "helm" / "fogbook"
VERSIONS = ROOT / "ops" / "migrations" / "versions"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
GRACE_S = 3 + 5
"""What a process may take to end, at least: uvicorn's own grace, and what its end takes then."""
SINCE = "0007"
"""Migrations before this one were made when nothing was at work meanwhile."""


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{package} is not here: `make tools` installs it.")


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not here: `make tools` as root installs it.")
    return found


# Texts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_no_file_names_a_registry_or_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    for line in text.splitlines():
        image = re.search(r"^\s*(?:image|repository|FROM):?\s+(\S+)", line)
        if image:
            host, slash, _ = image[1].strip('"').partition("/")
            assert not slash or ("." not in host and ":" not in host), line
    assert not re.search(r"\b(ghcr|gcr|quay|docker)\.io\b|registry\.", text)
    assert not re.search(r"postgresql://\w+:(?!%s@)[^@$\s]+@", text)


def test_every_setting_that_a_file_names_is_one() -> None:
    known = {f"FOGBOOK_{name.upper()}" for name in Settings.model_fields} | {
        "FOGBOOK_VERSION",
        "FOGBOOK_PUBLISH",
    }
    for path in FILES:
        for name in re.findall(r"\bFOGBOOK_[A-Z_]+\b", path.read_text()):
            assert name in known, f"{path.name} names {name}"


def test_valkeys_user_may_do_what_fogbook_does_and_no_more() -> None:
    (line,) = [
        line for line in (DEPLOY / "users.acl").read_text().splitlines() if line.startswith("user fogbook")
    ]
    assert line.removeprefix("user fogbook on >PASSWORD ") == _RIGHTS


def test_both_copies_of_the_poolers_settings_are_the_same() -> None:
    def settings(text: str) -> dict[str, str]:
        lines = [
            line.strip() for line in text.splitlines() if "=" in line and not line.strip().startswith(";")
        ]
        return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines)

    own = settings((DEPLOY / "pgbouncer.ini").read_text())
    chart = (
        (CHART / "templates" / "pgbouncer.yaml")
        .read_text()
        .partition("pgbouncer.ini: |")[2]
        .partition("---")[0]
    )
    charted = settings(chart)
    assert own.keys() == charted.keys()
    differing = {name for name in own if own[name] != charted[name]}
    assert differing == {"fogbook", "auth_file", "default_pool_size"}
    connect_query = re.compile(r"connect_query='(.*)'")
    assert connect_query.findall(own["fogbook"]) == connect_query.findall(charted["fogbook"]) != []


# Compose


def test_processes_of_the_compose_file_are_confined_and_given_time_to_end() -> None:
    for name, service in services().items():
        assert ("image" in service) and "privileged" not in service
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "postgres":
            assert service["read_only"] is True and service["user"] == "10001:10001", name
            assert service["cap_drop"] == ["ALL"], name
        if service["image"].startswith("fogbook:"):
            assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_S, name
    gates = [name for name, service in services().items() if "ports" in service]
    assert gates == ["gate"]


def test_only_what_may_goes_through_the_pooler() -> None:
    def way(name: str) -> str:
        secrets = [
            s if isinstance(s, dict) else {"source": s, "target": s} for s in services()[name]["secrets"]
        ]
        return str(next(s["source"] for s in secrets if s["target"] == "database_url"))

    assert way("queries") == "pooled_database_url"
    assert services()["queries"]["environment"]["FOGBOOK_PREPARE_STATEMENTS"] == "false"
    assert {way(name) for name in ("commands", "workers", "archivist")} == {"database_url"}


def test_every_secret_of_the_compose_file_is_made_by_its_script() -> None:
    wanted = {Path(each["file"]).name for each in yaml.safe_load(COMPOSE.read_text())["secrets"].values()}
    script = (DEPLOY / "compose" / "secrets.sh").read_text()
    assert wanted <= set(re.findall(r"(?:put|new|: >) ([a-z_]+)", script))
    subprocess.run(["sh", "-n", str(DEPLOY / "compose" / "secrets.sh")], check=True)
    subprocess.run(["sh", "-n", str(DEPLOY / "compose" / "login.sh")], check=True)


def test_docker_compose_takes_the_file() -> None:
    compose = program("docker-compose")
    done = subprocess.run(
        [compose, "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    nginx = program("nginx")
    text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run(
        [nginx, "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# systemd


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    for path in (DEPLOY / "systemd").iterdir():
        # What they start is not here, and `verify` looks for it.
        text = re.sub(r"^(ExecStart=)/(?:opt|usr)/\S+", r"\1/bin/true", path.read_text(), flags=re.M)
        (tmp_path / path.name.replace("@.", "@1.")).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir()) if path.suffix != ".sysusers"]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    own = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "fogbook" in line]
    assert own == []


@pytest.mark.parametrize("path", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda path: path.name)
def test_units_run_unprivileged_and_what_they_start_is_there(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^(User=fogbook|DynamicUser=true)$", text, re.M)
    assert "NoNewPrivileges=true" in text and "ProtectSystem=strict" in text
    for arguments in re.findall(r"ExecStart=/opt/fogbook/bin/fogbook (.*)", text):
        assert arguments.split()[0] in ("serve", "work", "archive", "migrate")
    for pattern in re.findall(r"^Wants=(.*)$", (DEPLOY / "systemd" / "fogbook.target").read_text(), re.M):
        for unit in pattern.split():
            assert (DEPLOY / "systemd" / re.sub(r"@.*\.", "@.", unit)).exists(), unit


# Helm

VALUES: dict[str, Any] = {
    "as it is": {},
    "all of it": {
        "migrate": {"contract": True},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecretName": "tls"},
        "networkPolicy": {"callers": {"app": "ingress"}},
        "settings": {"FOGBOOK_HOSTS": "fogbook.example", "FOGBOOK_HSTS_S": 31_536_000},
        "image": {"repository": "ours/fogbook", "tag": "9"},
    },
    "as little as there is": {
        "pgbouncer": {"enabled": False},
        "valkey": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "subjects": {"existingClaim": "s"},
        "signed": {"existingClaim": "k"},
        "queries": {"replicas": 1},
        "workers": {"replicas": 1},
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    chart = needed("helm_python.chart", "helm-python-sdk").Chart.load(CHART)
    made = chart.render(values, name="fog", namespace="economy")
    return [each for text in made.values() for each in yaml.safe_load_all(text) if each]


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    chart = needed("helm_python.chart", "helm-python-sdk")
    report = chart.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_knows_every_field_that_the_chart_makes(name: str) -> None:
    validate = needed("kubernetes_validate", "kubernetes-validate").validate
    made = rendered(VALUES[name])
    assert {"Deployment", "Service", "Job"} <= {resource["kind"] for resource in made}
    for resource in made:
        for version in ("1.29", "1.34"):
            validate(resource, version, strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_pods_of_the_chart_are_confined_and_given_time_to_end(name: str) -> None:
    for resource in rendered(VALUES[name]):
        if resource["kind"] not in ("Deployment", "Job"):
            continue
        where, spec = resource["metadata"]["name"], resource["spec"]["template"]["spec"]
        assert (
            spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
        )
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() and container["resources"][
            "limits"
        ]
        if where.rpartition("-")[2] in ("commands", "queries"):
            assert {"startupProbe", "livenessProbe", "readinessProbe", "lifecycle"} <= container.keys()
            assert spec["terminationGracePeriodSeconds"] > 5 + GRACE_S
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            assert "fogbook_migrate_database_url" not in json.dumps(volumes)


def test_values_that_make_no_sense_are_refused() -> None:
    chart = needed("helm_python.chart", "helm-python-sdk").Chart.load(CHART)
    chart.validate_schema({})
    wrong: dict[str, dict[str, Any]] = {
        "minimum: got 0": {"commands": {"replicas": 0}},
        "FOGBOOK_PEPPER": {"settings": {"FOGBOOK_PEPPER": "in the open"}},
        "quaries": {"quaries": {"replicas": 3}},
    }
    for said, values in wrong.items():
        with pytest.raises(Exception, match=said):
            chart.validate_schema(values)


# Migrations

EXCLUDED = (
    "prefer-bigint-over-int,prefer-text-field,prefer-robust-stmts,prefer-identity,require-timeout-settings"
)


def test_migrations_are_of_one_step_each_and_those_that_only_add_do_so(tmp_path: Path) -> None:
    """squawk knows what locks out, breaks or fails whoever is at work meanwhile (ops/adr/0032)."""
    squawk = program("squawk") if shutil.which("squawk") else str(ROOT / ".venv" / "bin" / "squawk")
    if not Path(squawk).exists():
        pytest.skip("squawk-cli is not here: `make tools` installs it.")
    steps = {revision.name: revision.contracts for revision in revisions()}
    scripts = [p for p in sorted(VERSIONS.glob("v*.sql")) if p.name[1:5] >= SINCE and not steps[p.name[1:5]]]
    assert scripts

    def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
        argv = [squawk, "--assume-in-transaction", f"--exclude={EXCLUDED}", *map(str, paths)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    done = lint(*scripts)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, broken in enumerate(
        (
            "ALTER TABLE api_keys DROP COLUMN name;",
            "ALTER TABLE api_keys RENAME COLUMN name TO title;",
            "ALTER TABLE api_keys ADD COLUMN owner text NOT NULL;",
            "ALTER TABLE api_keys ALTER COLUMN lineage SET NOT NULL;",
            "ALTER TABLE heads ALTER COLUMN position TYPE integer;",
            "CREATE INDEX slow ON events (type);",
            "DROP TABLE recorder_events;",
        )
    ):
        path = tmp_path / f"{number}.sql"
        path.write_text(broken)
        assert lint(path).returncode != 0, broken


def test_a_step_goes_as_far_as_what_is_at_work_allows() -> None:
    known = [Revision("1", False), Revision("2", False), Revision("3", True)]
    assert target_of(Step.expand, None, known) == "head"
    assert target_of(Step.expand, "1", known) == "2"
    assert target_of(Step.expand, "2", known) is None
    assert target_of(Step.contract, "2", known) == "head"
    assert target_of(Step.all, "1", known) == "head"
    later = [*known, Revision("4", False)]
    assert target_of(Step.expand, "3", later) == "4"
    with pytest.raises(StepRefused, match="stands 3"):
        target_of(Step.expand, "2", later)
    with pytest.raises(StepRefused, match="newer than this version"):
        target_of(Step.expand, "9", known)
