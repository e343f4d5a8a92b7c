"""Valkey: what it holds is disposable, so it never writes to disk."""

import signal
import socket
from pathlib import Path

from ops._supervise import Child, spawn
from ops.servers._home import User, make_folder
from ops.servers._programs import ENVIRONMENT
from ops.servers._server import LOOPBACK, Server

USER, ADMIN = "fogbook", "admin"

_SETTINGS = {
    "bind": LOOPBACK,
    "protected-mode": "yes",
    "user default": "off",
    # No file is ever written, and no message ever dropped in silence.
    "save": '""',
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "pidfile": "valkey.pid",
}

# What the broker and the wake-ups use (workers/_broker.py), Dramatiq's script included, and rates (ops/leases.py), on
# keys of no other name. The commands that look at, empty or stop a server are not among them.
_RIGHTS = (
    "~fogbook* -@all +hello +ping +select +evalsha +eval +script|load +set +get +del +hset +hget +hmget +hdel +hlen"
    " +hexists +hkeys +lpop +rpush +llen +lrange +sadd +srem +scard +smembers +zadd +zrem +zcard +zrangebyscore"
    " +zremrangebyrank +expire +keys +scan +mget +time"
)


class Valkey(Server):
    name = "valkey"
    title = "Valkey"
    stop_signal = signal.SIGTERM
    process_names = frozenset({"valkey-server", "redis-server"})

    def __init__(
        self,
        home: Path,
        program: Path,
        user: User | None,
        port: int | None,
        wait_s: float,
        password: str,
        admin_password: str,
    ) -> None:
        super().__init__(home, home / "valkey", user, port, wait_s)
        self.program = program
        self.password = password
        self.admin_password = admin_password
        make_folder(self.folder, user)

    def spawn(self) -> Child:
        settings = {
            **_SETTINGS,
            "port": str(self.port),
            f"user {USER}": f"on >{self.password} {_RIGHTS}",
            f"user {ADMIN}": f"on >{self.admin_password} ~* &* +@all",
        }
        return spawn(
            [str(self.program), "-"],
            env=ENVIRONMENT,
            # It never names this folder, so it need not be able to walk there.
            cwd=self.folder,
            log=self.log,
            user=self.user,
            stop_signal=self.stop_signal,
            stdin="".join(f"{name} {value}\n" for name, value in settings.items()).encode(),
        )

    def is_ready(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {USER} {self.password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answers:
                    return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False
