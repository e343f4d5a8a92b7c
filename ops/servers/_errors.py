"""What went wrong, in one sentence."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path


class ServersFailed(Exception):
    """The servers could not be started; the message is one sentence for the person who asked for them."""


@contextlib.contextmanager
def plain_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ServersFailed(f"The disk that holds {home} is full.") from error
        where = f" ({error.filename})" if error.filename else ""
        raise ServersFailed(f"{home} cannot be used as the home: {error.strerror}{where}.") from error


def because(said: str, home: Path) -> str:
    if os.strerror(errno.ENOSPC) in said:
        return f": the disk that holds {home} is full"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"FATAL|PANIC|error:|cannot run|# ", line)] or lines
    return f": {telling[-1].rstrip('.')}" if telling else ""
