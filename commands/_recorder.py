"""Our log as a persistence module of the `eventsourcing` library: `PERSISTENCE_MODULE=commands._recorder`.

An application of that library gets a zone of its own: `FOGBOOK_ZONE`, or its name in lower case. Its events are
stored as ours are, so its notification ids are positions: gapless, and in the order of commits. A follower that
has seen position p has therefore seen everything up to p. Appends take the lock path: lock the head, hash, append.

An originator id becomes a stream, an originator version a version, a topic a type. `ORIGINATOR_ID_TYPE` is `uuid`
(as in that library) or `text`, with which the logs of our own zones can be followed as well. They cannot be written:
only the sequencer appends there. An event larger than an entry of the log (65,535 bytes) is a DataError.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DatabaseError,
    DataError,
    InfrastructureFactory,
    IntegrityError,
    InterfaceError,
    InternalError,
    ListenNotifySubscription,
    Notification,
    NotSupportedError,
    OperationalError,
    PersistenceError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, retry, strtobool
from psycopg import Cursor
from psycopg_pool import ConnectionPool

from commands._append import APPEND
from commands._codec import ZONE, EntryTooLarge, event_leaf, microseconds, zone_prefix
from commands._log import Batch
from ops.pool import WORK_S
from ops.settings import APP_ROLE
from ops.waits import Connection, connection_options

CONNECTIONS = 10
POLL_S = 0.01
MOST_POLL_S = 0.1
"""How long a subscription sleeps after it found nothing; it begins with POLL_S and doubles."""
MOST_POSITION = 2**63 - 1

ADD_HEAD = "SELECT add_head(%s, 'real', 'epoch')"

# The time is the database's, and never goes backwards.
LOCK_HEAD = "SELECT position, number, greatest(clock_timestamp(), recorded_at) FROM lock_head(%s)"

IS_OUR_OWN = "SELECT 1 FROM events WHERE zone = %s AND position = 1 AND stream = 'zone:self'"

POSITION = "SELECT nullif(position, 0) FROM heads WHERE zone = %s"

EVENTS = """
SELECT version, type, data FROM events
WHERE zone = %s AND stream = %s AND version > %s AND version <= %s ORDER BY version LIMIT %s
"""

EVENTS_BACKWARDS = """
SELECT version, type, data FROM events
WHERE zone = %s AND stream = %s AND version > %s AND version <= %s ORDER BY version DESC LIMIT %s
"""

NOTIFICATIONS = """
SELECT position, stream, version, type, data FROM events
WHERE zone = %s AND position > %s AND position <= %s ORDER BY position LIMIT %s
"""

NOTIFICATIONS_OF_TOPICS = """
SELECT position, stream, version, type, data FROM events
WHERE zone = %s AND position > %s AND position <= %s AND type = ANY(%s) ORDER BY position LIMIT %s
"""

ADD_UNORDERED = """
INSERT INTO recorder_events
SELECT %s, %s, stream, version, type, data
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[]) AS e(stream, version, type, data)
"""

UNORDERED = """
SELECT version, type, data FROM recorder_events
WHERE zone = %s AND purpose = %s AND stream = %s AND version > %s AND version <= %s ORDER BY version LIMIT %s
"""

UNORDERED_BACKWARDS = """
SELECT version, type, data FROM recorder_events
WHERE zone = %s AND purpose = %s AND stream = %s AND version > %s AND version <= %s
ORDER BY version DESC LIMIT %s
"""

TRACK = """
INSERT INTO recorder_tracking AS t (zone, application, position) VALUES (%s, %s, %s)
ON CONFLICT (zone, application) DO UPDATE SET position = excluded.position WHERE t.position < excluded.position
RETURNING position
"""

TRACKED = "SELECT position FROM recorder_tracking WHERE zone = %s AND application = %s"

ERRORS: tuple[tuple[type[psycopg.Error], type[PersistenceError]], ...] = (
    (psycopg.InterfaceError, InterfaceError),
    (psycopg.OperationalError, OperationalError),
    (psycopg.DataError, DataError),
    (psycopg.IntegrityError, IntegrityError),
    (psycopg.InternalError, InternalError),
    (psycopg.ProgrammingError, ProgrammingError),
    (psycopg.NotSupportedError, NotSupportedError),
    (psycopg.DatabaseError, DatabaseError),
    (psycopg.Error, PersistenceError),
)

# Only reads are tried again. A connection that was lost during a commit leaves open whether it happened, and
# trying again would then report a conflict of the caller with itself.
read_again = retry((InterfaceError, OperationalError), max_attempts=10, wait=0.2)

C = TypeVar("C")


class Datastore:
    """A zone, and the connections to it. Opened on first use, closed with its factory or when nobody has it."""

    def __init__(
        self, url: str, zone: str, *, uuids: bool = True, connections: int = CONNECTIONS, prepare: bool = True
    ) -> None:
        self.zone = zone
        self.uuids = uuids
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=connections,
            timeout=5.0,
            max_waiting=1_000,
            reconnect_timeout=5.0,
            open=False,
            check=ConnectionPool.check_connection,
            connection_class=Connection,
            name=f"fogbook {zone}",
            kwargs={
                "autocommit": True,
                "wait_s": WORK_S,
                "prepare_threshold": 1 if prepare else None,
                "application_name": f"fogbook recorder {zone}",
                "options": connection_options(APP_ROLE, WORK_S),
            },
        )
        self._close = weakref.finalize(self, self._pool.close, 2.0)

    def close(self) -> None:
        self._close()

    @contextmanager
    def cursor(self) -> Iterator[Cursor[Any]]:
        """A cursor on a connection that commits each statement. Raises the library's errors."""
        if not self._close.alive:
            raise ProgrammingError("the connections of this application were closed")
        try:
            self._pool.open()
            with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
                yield cursor
        except psycopg.Error as error:
            known = next(ours for theirs, ours in ERRORS if isinstance(error, theirs))
            raise known(str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Cursor[Any]]:
        """A cursor whose statements are committed together, or not at all."""
        with self.cursor() as cursor, cursor.connection.transaction():
            yield cursor

    def stream(self, originator_id: UUID | str) -> str:
        """The stream of an originator; a UUID in its canonical form, so that each has just one."""
        if not self.uuids or isinstance(originator_id, UUID):
            return str(originator_id)
        return str(self._uuid(originator_id))

    def originator(self, stream: str) -> UUID | str:
        return self._uuid(stream) if self.uuids else stream

    def _uuid(self, text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError as error:
            raise DataError(f"{text!r} is not a UUID; ORIGINATOR_ID_TYPE=text takes any text") from error


class FogbookAggregateRecorder(AggregateRecorder):
    """Sequences beside the log, in no common order: the library keeps its snapshots in one."""

    def __init__(self, datastore: Datastore, purpose: str = "events") -> None:
        self.datastore = datastore
        self._purpose = purpose

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        if stored_events:
            columns = (
                [self.datastore.stream(e.originator_id) for e in stored_events],
                [e.originator_version for e in stored_events],
                [e.topic for e in stored_events],
                [e.state for e in stored_events],
            )
            with self.datastore.cursor() as cursor:
                cursor.execute(ADD_UNORDERED, (self.datastore.zone, self._purpose, *columns))
        return None

    @read_again
    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        stream = self.datastore.stream(originator_id)
        where = (self.datastore.zone, self._purpose, stream, *_versions(gt, lte), limit)
        with self.datastore.cursor() as cursor:
            cursor.execute(UNORDERED_BACKWARDS if desc else UNORDERED, where)
            return [StoredEvent(self.datastore.originator(stream), *row) for row in cursor]


class FogbookApplicationRecorder(ApplicationRecorder):
    """An application's events in the log of its zone."""

    def __init__(self, datastore: Datastore) -> None:
        self.datastore = datastore
        self._may_append = False

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Append all of them, or none: IntegrityError when a version is taken. Returns their positions."""
        with self.datastore.transaction() as cursor:
            positions = self._append(cursor, stored_events) if stored_events else []
            self._insert_also(cursor, **kwargs)
        return positions

    def _insert_also(self, cursor: Cursor[Any], **kwargs: Any) -> None:
        """What subclasses store in the transaction of the events."""

    def _append(self, cursor: Cursor[Any], stored_events: Sequence[StoredEvent]) -> list[int]:
        zone = self.datastore.zone
        position, number, at = self._lock_head(cursor)
        at_us, prefix = microseconds(at), zone_prefix(zone)
        positions = list(range(position + 1, position + 1 + len(stored_events)))
        batch = Batch()
        for own, event in zip(positions, stored_events, strict=True):
            stream, version, topic = (
                self.datastore.stream(event.originator_id),
                event.originator_version,
                event.topic,
            )
            try:
                leaf = event_leaf(prefix, own, stream, version, topic, at_us, b"", event.state)
            except EntryTooLarge as error:
                raise DataError(f"{topic} {version} of {stream} does not fit into the log") from error
            batch.streams.append(stream)
            batch.versions.append(version)
            batch.types.append(topic)
            batch.data.append(event.state)
            batch.meta.append(b"")
            batch.leaves.append(leaf)
        cursor.execute(APPEND, (zone, position, number, at, *batch.columns()))
        assert cursor.fetchall() == [(True,)], "nobody else writes while the head is locked"
        return positions

    def _lock_head(self, cursor: Cursor[Any]) -> Any:
        """Position, number and time of the zone's head, locked until commit; the zone is made on first use."""
        zone = self.datastore.zone
        head = cursor.execute(LOCK_HEAD, (zone,)).fetchone()
        if head is None:
            cursor.execute(ADD_HEAD, (zone,))
            head = cursor.execute(LOCK_HEAD, (zone,)).fetchone()
            assert head is not None, "no role may remove a head"
        if not self._may_append:
            # The first event tells whose zone it is, and never changes; so it is asked for until there is one.
            if cursor.execute(IS_OUR_OWN, (zone,)).fetchone():
                raise ProgrammingError(f"zone {zone} is Fogbook's own: its events come from commands only")
            self._may_append = head[0] > 0
        return head

    @read_again
    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        stream = self.datastore.stream(originator_id)
        where = (self.datastore.zone, stream, *_versions(gt, lte), limit)
        with self.datastore.cursor() as cursor:
            cursor.execute(EVENTS_BACKWARDS if desc else EVENTS, where)
            return [StoredEvent(self.datastore.originator(stream), *row) for row in cursor]

    @read_again
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = 0 if start is None else start - inclusive_of_start
        bounds = (self.datastore.zone, after, MOST_POSITION if stop is None else stop)
        with self.datastore.cursor() as cursor:
            if topics:
                cursor.execute(NOTIFICATIONS_OF_TOPICS, (*bounds, list(topics), limit))
            else:
                cursor.execute(NOTIFICATIONS, (*bounds, limit))
            return [
                Notification(self.datastore.originator(stream), version, topic, data, id=position)
                for position, stream, version, topic, data in cursor
            ]

    @read_again
    def max_notification_id(self) -> int | None:
        with self.datastore.cursor() as cursor:
            head = cursor.execute(POSITION, (self.datastore.zone,)).fetchone()
        return head[0] if head else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        return FogbookSubscription(self, gt, topics)


class FogbookSubscription(ListenNotifySubscription[ApplicationRecorder]):
    """Polls the head: one row by its key, which works behind PgBouncer and needs no connection of its own."""

    def _loop_on_pull(self) -> None:
        pause_s = POLL_S
        try:
            while not self._has_been_stopped:
                before = self._last_notification_id
                self._pull()
                pause_s = POLL_S if self._last_notification_id != before else min(2 * pause_s, MOST_POLL_S)
                # Only `stop` sets this event.
                self._has_been_notified.wait(pause_s)
        except BaseException as error:
            # A queue that was shut down under our hands is how stopping looks from here.
            if not self._has_been_stopped:
                self._thread_error = error
                self.stop()

    def _pull(self) -> None:
        """Pass on what is new. All up to the head is visible, so what was not wanted is never read again."""
        head = self._recorder.max_notification_id() or 0
        while not self._has_been_stopped and (self._last_notification_id or 0) < head:
            found = self._recorder.select_notifications(
                self._last_notification_id or 0,
                self._select_limit,
                head,
                self._topics,
                inclusive_of_start=False,
            )
            if found:
                self._notifications_queue.put(found)
            self._last_notification_id = found[-1].id if len(found) == self._select_limit else head


class FogbookTrackingRecorder(TrackingRecorder):
    """How far a projection has come. A view subclasses it: `_insert_tracking` in the transaction of its rows."""

    def __init__(self, datastore: Datastore) -> None:
        self.datastore = datastore

    def insert_tracking(self, tracking: Tracking) -> None:
        with self.datastore.transaction() as cursor:
            self._insert_tracking(cursor, tracking)

    def _insert_tracking(self, cursor: Cursor[Any], tracking: Tracking) -> None:
        row = (self.datastore.zone, tracking.application_name, tracking.notification_id)
        if cursor.execute(TRACK, row).fetchone() is None:
            raise IntegrityError(
                f"{tracking.application_name} was processed up to {tracking.notification_id} or further before"
            )

    @read_again
    def max_tracking_id(self, application_name: str) -> int | None:
        with self.datastore.cursor() as cursor:
            row = cursor.execute(TRACKED, (self.datastore.zone, application_name)).fetchone()
        return row[0] if row else None


class FogbookProcessRecorder(FogbookTrackingRecorder, FogbookApplicationRecorder, ProcessRecorder):
    """Events, and the event of another application that they follow from, in one transaction."""

    def __init__(self, datastore: Datastore) -> None:
        FogbookTrackingRecorder.__init__(self, datastore)
        FogbookApplicationRecorder.__init__(self, datastore)

    def _insert_also(self, cursor: Cursor[Any], tracking: Tracking | None = None, **kwargs: Any) -> None:
        if tracking is not None:
            self._insert_tracking(cursor, tracking)


class FogbookFactory(InfrastructureFactory[FogbookTrackingRecorder]):
    """Makes the recorders of one application. Its settings may be prefixed with the application's name."""

    DATABASE_URL = "DATABASE_URL"
    FOGBOOK_ZONE = "FOGBOOK_ZONE"
    FOGBOOK_CONNECTIONS = "FOGBOOK_CONNECTIONS"
    FOGBOOK_PREPARE_STATEMENTS = "FOGBOOK_PREPARE_STATEMENTS"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        url = self.env.get(self.DATABASE_URL)
        if not url:
            raise OSError(f"{self.DATABASE_URL} is not set")
        zone = self.env.get(self.FOGBOOK_ZONE) or self.env.name.lower()
        if not ZONE.match(zone):
            raise OSError(f"{zone!r} is no name of a zone; set {self.FOGBOOK_ZONE}, 1 to 63 of a-z 0-9 . _ -")
        id_type = self.env.get(self.ORIGINATOR_ID_TYPE, "uuid").lower()
        if id_type not in ("uuid", "text"):
            raise OSError(f"{self.ORIGINATOR_ID_TYPE} is {id_type!r}, not 'uuid' or 'text'")
        self.datastore = Datastore(
            url,
            zone,
            uuids=id_type == "uuid",
            connections=int(self.env.get(self.FOGBOOK_CONNECTIONS) or CONNECTIONS),
            prepare=strtobool(self.env.get(self.FOGBOOK_PREPARE_STATEMENTS) or "yes"),
        )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self.close()

    def close(self) -> None:
        # An application closes its factory when it is collected, even one that was never fully made.
        if hasattr(self, "datastore"):
            self.datastore.close()

    def aggregate_recorder(self, purpose: str = "events") -> FogbookAggregateRecorder:
        return FogbookAggregateRecorder(self.datastore, purpose)

    def application_recorder(self) -> FogbookApplicationRecorder:
        return self._class(self.APPLICATION_RECORDER_TOPIC, FogbookApplicationRecorder)(self.datastore)

    def tracking_recorder(
        self, tracking_recorder_class: type[FogbookTrackingRecorder] | None = None
    ) -> FogbookTrackingRecorder:
        chosen = tracking_recorder_class or self._class(self.TRACKING_RECORDER_TOPIC, FogbookTrackingRecorder)
        return chosen(self.datastore)

    def process_recorder(self) -> FogbookProcessRecorder:
        return self._class(self.PROCESS_RECORDER_TOPIC, FogbookProcessRecorder)(self.datastore)

    def _class(self, setting: str, ours: type[C]) -> type[C]:
        """The class that a setting names, or ours."""
        topic = self.env.get(setting)
        if not topic:
            return ours
        found = resolve_topic(topic)
        if not (isinstance(found, type) and issubclass(found, ours)):
            raise OSError(f"{setting} is {topic}, which is no {ours.__name__}")
        return found


def _versions(gt: int | None, lte: int | None) -> tuple[int, int]:
    return -1 if gt is None else gt, MOST_POSITION if lte is None else lte
