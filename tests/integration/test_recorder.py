"""Our log as a persistence module of the `eventsourcing` library: its own test cases, and real applications."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import AggregateNotFoundError, Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactory,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.system import Follower, Leader, ProcessApplication, SingleThreadedRunner, System
from eventsourcing.tests import application as library_applications
from eventsourcing.tests import persistence as library
from eventsourcing.tests import projection as library_projections
from eventsourcing.utils import Environment, get_topic

from commands._codec import event_leaf, microseconds, zone_prefix
from commands._recorder import (
    Datastore,
    FogbookAggregateRecorder,
    FogbookApplicationRecorder,
    FogbookFactory,
    FogbookProcessRecorder,
    FogbookTrackingRecorder,
)
from ops.settings import APP_ROLE
from ops.zones import ensure_zone
from tests.conftest import Database

MODULE = "commands._recorder"


class OnOurLog:
    """Gives each of the library's test cases a database of its own, and closes what they leave open."""

    database: Database
    datastore: Datastore

    @pytest.fixture(autouse=True)
    def _on_our_log(self, database: Database) -> Iterator[None]:
        self.database = database
        self.datastore = Datastore(database.url, "library")
        yield
        self.datastore.close()


# The library's own test cases


class TestAggregateRecorder(OnOurLog, library.AggregateRecorderTestCase):
    def create_recorder(self) -> FogbookAggregateRecorder:
        return FogbookAggregateRecorder(self.datastore, "snapshots")


class TestApplicationRecorder(OnOurLog, library.ApplicationRecorderTestCase[FogbookApplicationRecorder]):
    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = True

    def create_recorder(self) -> FogbookApplicationRecorder:
        return FogbookApplicationRecorder(self.datastore)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderOfAProcess(TestApplicationRecorder):
    """A process recorder is an application recorder too."""

    def create_recorder(self) -> FogbookProcessRecorder:
        return FogbookProcessRecorder(self.datastore)


class TestApplicationRecorderWithTextIds(TestApplicationRecorder):
    def create_recorder(self) -> FogbookApplicationRecorder:
        self.datastore.uuids = False
        return FogbookApplicationRecorder(self.datastore)

    def new_originator_id(self) -> str:
        return f"boat:{uuid4()}"


class TestTrackingRecorder(OnOurLog, library.TrackingRecorderTestCase):
    def create_recorder(self) -> FogbookTrackingRecorder:
        return FogbookTrackingRecorder(self.datastore)


class TestTrackingRecorderOfAProcess(TestTrackingRecorder):
    def create_recorder(self) -> FogbookTrackingRecorder:
        return FogbookProcessRecorder(self.datastore)


class TestProcessRecorder(OnOurLog, library.ProcessRecorderTestCase):
    def create_recorder(self) -> FogbookProcessRecorder:
        return FogbookProcessRecorder(self.datastore)


class TestNonInterleavingNotificationIDs(OnOurLog, library.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> FogbookApplicationRecorder:
        return FogbookApplicationRecorder(self.datastore)


class BoatView(FogbookTrackingRecorder):
    pass


class TestInfrastructureFactory(OnOurLog, library.InfrastructureFactoryTestCase[FogbookFactory]):
    def setUp(self) -> None:
        self.env = Environment("TestCase", {"PERSISTENCE_MODULE": MODULE, "DATABASE_URL": self.database.url})
        super().setUp()

    def expected_factory_class(self) -> type[FogbookFactory]:
        return FogbookFactory

    def expected_aggregate_recorder_class(self) -> type[FogbookAggregateRecorder]:
        return FogbookAggregateRecorder

    def expected_application_recorder_class(self) -> type[FogbookApplicationRecorder]:
        return FogbookApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[FogbookTrackingRecorder]:
        return FogbookTrackingRecorder

    def tracking_recorder_subclass(self) -> type[FogbookTrackingRecorder]:
        return BoatView

    def expected_process_recorder_class(self) -> type[FogbookProcessRecorder]:
        return FogbookProcessRecorder


class EnvironmentOfOurLog(OnOurLog):
    """For the library's test cases that make whole applications, which read their settings from the environment."""

    @pytest.fixture(autouse=True)
    def _environment(self, _on_our_log: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PERSISTENCE_MODULE", MODULE)
        monkeypatch.setenv("DATABASE_URL", self.database.url)


class TestExampleApplication(EnvironmentOfOurLog, library_applications.ExampleApplicationTestCase):
    expected_factory_topic = "commands._recorder:FogbookFactory"


class TestEventSourcedProjection(EnvironmentOfOurLog, library_projections.EventSourcedProjectionTestCase):
    pass


class EventCounters(FogbookTrackingRecorder, library_projections.EventCountersView):
    """A materialised view as a user of the library writes one: its rows and its tracking in one transaction."""

    CREATE = "CREATE TABLE event_counters (name text PRIMARY KEY, n bigint NOT NULL)"
    ADD = "INSERT INTO event_counters AS c VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET n = c.n + 1"
    READ = "SELECT coalesce(sum(n), 0)::bigint FROM event_counters WHERE name = %s"

    def get_created_event_counter(self) -> int:
        return self._read("created")

    def get_subsequent_event_counter(self) -> int:
        return self._read("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._add("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._add("subsequent", tracking)

    def _read(self, name: str) -> int:
        with self.datastore.cursor() as cursor:
            row = cursor.execute(self.READ, (name,)).fetchone()
        assert row is not None
        return int(row[0])

    def _add(self, name: str, tracking: Tracking) -> None:
        with self.datastore.transaction() as cursor:
            cursor.execute(self.ADD, (name,))
            self._insert_tracking(cursor, tracking)

    @classmethod
    def create_table(cls, database: Database) -> None:
        with database.superuser() as connection:
            connection.execute(cls.CREATE)
            connection.execute(f"GRANT SELECT, INSERT, UPDATE ON event_counters TO {APP_ROLE}")


class TestEventCountersView(OnOurLog, library_projections.EventCountersViewTestCase):
    def construct_event_counters_view(self) -> EventCounters:
        EventCounters.create_table(self.database)
        return EventCounters(self.datastore)


class TestEventCountersProjection(
    EnvironmentOfOurLog, library_projections.AggregateEventCountersProjectionTestCase
):
    view_class = EventCounters

    def setUp(self) -> None:
        EventCounters.create_table(self.database)


# Applications


class Boat(Aggregate):
    @event("Launched")
    def __init__(self, name: str) -> None:
        self.name = name
        self.miles = 0

    @event("Sailed")
    def sail(self, miles: int) -> None:
        self.miles += miles


class Harbour(Application[UUID]):
    is_snapshotting_enabled = True
    snapshotting_intervals = {Boat: 3}  # noqa: RUF012 - as the library declares it


class Logbook(Aggregate):
    """Counts the miles of one boat."""

    @event("Opened")
    def __init__(self, id: UUID) -> None:
        self.total = 0

    @event("Added")
    def add(self, miles: int) -> None:
        self.total += miles


class Logbooks(ProcessApplication[UUID]):
    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        if isinstance(domain_event, Boat.Sailed):  # type: ignore[attr-defined]
            id = UUID(int=domain_event.originator_id.int ^ 1)
            try:
                logbook: Logbook = self.repository.get(id)
            except AggregateNotFoundError:
                logbook = Logbook(id=id)
            logbook.add(domain_event.miles)
            processing_event.collect_events(logbook)


@pytest.fixture
def env(database: Database) -> dict[str, str]:
    return {"PERSISTENCE_MODULE": MODULE, "DATABASE_URL": database.url}


@pytest.fixture
def recorder(database: Database) -> Iterator[FogbookApplicationRecorder]:
    with closing(Datastore(database.url, "library")) as datastore:
        yield FogbookApplicationRecorder(datastore)


def stored(version: int = 1, id: UUID | str | None = None, state: bytes = b"{}") -> StoredEvent:
    return StoredEvent(id or uuid4(), version, "boats:Sailed", state)


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(statement).fetchall()


def test_an_application_saves_snapshots_and_loads_its_aggregates(
    env: dict[str, str], database: Database
) -> None:
    with Harbour(env) as harbour:
        boat = Boat("Ana")
        for miles in (1, 2, 3, 4):
            boat.sail(miles)
            harbour.save(boat)
        assert harbour.repository.get(boat.id).miles == 10
        assert harbour.repository.get(boat.id, version=2).miles == 1
        assert [n.id for n in harbour.notification_log.select(1, 10)] == [1, 2, 3, 4, 5]
    assert rows(database, "SELECT zone, purpose, version FROM recorder_events") == [
        ("harbour", "snapshots", 3)
    ]
    heads = rows(database, "SELECT zone, clock, position, number FROM heads")
    assert heads == [("harbour", "real", 5, 0)]
    with Harbour(env) as again:
        assert again.repository.get(boat.id).miles == 10


def test_a_loser_of_a_race_for_a_version_gets_the_conflict_of_the_library(env: dict[str, str]) -> None:
    with Harbour(env) as harbour:
        boat = Boat("Ana")
        harbour.save(boat)
        mine, yours = harbour.repository.get(boat.id), harbour.repository.get(boat.id)
        mine.sail(1)
        yours.sail(2)
        harbour.save(mine)
        with pytest.raises(IntegrityError):
            harbour.save(yours)
        assert harbour.recorder.max_notification_id() == 2


def test_a_system_of_the_library_runs_on_our_log_and_takes_up_its_work_where_it_was_left(
    env: dict[str, str],
) -> None:
    system = System(pipes=[[Harbour, Logbooks]])
    boat = Boat("Ana")
    for miles in (1, 2):
        with SingleThreadedRunner[UUID](system, env=env) as runner:
            boat.sail(miles)
            runner.get(Harbour).save(boat)
            logbooks = runner.get(Logbooks)
            logbook: Logbook = logbooks.repository.get(UUID(int=boat.id.int ^ 1))
            assert logbook.total == boat.miles
            assert (
                logbooks.recorder.max_tracking_id("Harbour")
                == runner.get(Harbour).recorder.max_notification_id()
            )


def test_a_follower_pulls_the_events_that_were_stored_while_it_was_away(env: dict[str, str]) -> None:
    with Harbour(env) as harbour, Logbooks(env) as logbooks:
        boats = [Boat(str(number)) for number in range(30)]
        for boat in boats:
            boat.sail(7)
        harbour.save(*boats)
        assert isinstance(logbooks, Follower)
        assert isinstance(logbooks, Leader)
        logbooks.follow("Harbour", harbour.notification_log)
        logbooks.pull_and_process("Harbour")
        assert logbooks.recorder.max_tracking_id("Harbour") == 60
        totals = [logbooks.repository.get(UUID(int=boat.id.int ^ 1)).total for boat in boats]
        assert totals == [7] * 30
        logbooks.pull_and_process("Harbour")
        assert logbooks.recorder.max_notification_id() == 60


# What the log guarantees


def test_a_rolled_back_append_leaves_no_gap(recorder: FogbookApplicationRecorder) -> None:
    first = stored()
    assert recorder.insert_events([first]) == [1]
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(), stored(), first])
    assert recorder.insert_events([stored(), stored()]) == [2, 3]


def test_an_event_of_an_application_is_hashed_like_ours(
    recorder: FogbookApplicationRecorder, database: Database
) -> None:
    recorder.insert_events([stored(), stored(7, state=b"\x00\xff")])
    found = rows(
        database,
        "SELECT position, stream, version, type, recorded_at, meta, data, leaf FROM events ORDER BY position",
    )
    assert len(found) == 2
    for position, stream, version, kind, at, meta, data, leaf in found:
        prefix = zone_prefix("library")
        assert leaf == event_leaf(prefix, position, stream, version, kind, microseconds(at), meta, data)


def test_the_time_of_the_log_never_goes_backwards(
    recorder: FogbookApplicationRecorder, database: Database
) -> None:
    recorder.insert_events([stored()])
    with database.superuser() as connection:
        connection.execute("UPDATE heads SET recorded_at = clock_timestamp() + interval '1 second'")
    recorder.insert_events([stored()])
    assert rows(
        database, "SELECT e.recorded_at = h.recorded_at FROM events e, heads h WHERE e.position = 2"
    ) == [(True,)]


def test_the_time_of_the_log_stands_still_while_the_clock_of_the_database_is_behind_it(
    recorder: FogbookApplicationRecorder, database: Database
) -> None:
    recorder.insert_events([stored()])
    with database.superuser() as connection:
        # As after a failover to a server whose clock is behind.
        connection.execute("UPDATE heads SET recorded_at = clock_timestamp() + interval '1 hour'")
    recorder.insert_events([stored()])


def test_an_event_larger_than_an_entry_of_the_log_is_refused_and_nothing_of_its_batch_is_stored(
    recorder: FogbookApplicationRecorder,
) -> None:
    with pytest.raises(DataError):
        recorder.insert_events([stored(), stored(state=bytes(65_536))])
    assert recorder.max_notification_id() is None


def test_an_id_that_is_no_uuid_is_refused_unless_ids_are_text(recorder: FogbookApplicationRecorder) -> None:
    with pytest.raises(DataError):
        recorder.insert_events([stored(id="boat:1")])
    id = uuid4()
    recorder.insert_events([stored(id=id)])
    assert recorder.select_events(str(id).upper()) == [stored(id=id)]
    recorder.datastore.uuids = False
    recorder.insert_events([stored(id="boat:1")])
    assert recorder.select_events("boat:1") == [stored(id="boat:1")]


def test_reading_makes_no_zone(recorder: FogbookApplicationRecorder, database: Database) -> None:
    assert recorder.max_notification_id() is None
    assert recorder.select_notifications(None, 10) == []
    assert rows(database, "SELECT zone FROM heads") == []


def test_our_own_zones_can_be_followed_but_not_written(env: dict[str, str], database: Database) -> None:
    ensure_zone(database.url, "main")
    with Harbour({**env, "FOGBOOK_ZONE": "main", "ORIGINATOR_ID_TYPE": "text"}) as harbour:
        with harbour.recorder.subscribe() as subscription:
            first = next(subscription)
        assert (first.id, first.originator_id, first.topic) == (1, "zone:self", "ZoneCreated")
        before = harbour.recorder.max_notification_id()
        with pytest.raises(ProgrammingError, match="zone main is Fogbook's own"):
            harbour.save(Boat("Ana"))
        assert harbour.recorder.max_notification_id() == before


def test_each_application_has_a_zone_of_its_own_unless_settings_say_otherwise(env: dict[str, str]) -> None:
    def zone_of(name: str, **settings: str) -> str:
        factory = InfrastructureFactory.construct(Environment(name, {**env, **settings}))
        assert isinstance(factory, FogbookFactory)
        return factory.datastore.zone

    assert zone_of("Harbour") == "harbour"
    assert zone_of("Harbour", FOGBOOK_ZONE="port") == "port"
    assert zone_of("Harbour", FOGBOOK_ZONE="port", HARBOUR_FOGBOOK_ZONE="harbour-2") == "harbour-2"
    for name, settings in (
        ("", {}),
        ("Häfen", {}),
        ("Harbour", {"FOGBOOK_ZONE": "Port"}),
        ("Harbour", {"DATABASE_URL": ""}),
        ("Harbour", {"ORIGINATOR_ID_TYPE": "int"}),
    ):
        with pytest.raises(OSError, match=r"zone|DATABASE_URL|ORIGINATOR_ID_TYPE"):
            zone_of(name, **settings)


def test_classes_of_recorders_can_be_named_in_the_environment(env: dict[str, str]) -> None:
    named = {**env, "PROCESS_RECORDER_TOPIC": get_topic(FogbookProcessRecorder)}
    with closing(FogbookFactory(Environment("Harbour", named))) as factory:
        assert type(factory.process_recorder()) is FogbookProcessRecorder
    wrong = {**env, "APPLICATION_RECORDER_TOPIC": get_topic(Boat)}
    with (
        closing(FogbookFactory(Environment("Harbour", wrong))) as factory,
        pytest.raises(OSError, match="Boat"),
    ):
        factory.application_recorder()


def test_a_subscription_to_rare_topics_passes_over_the_others_and_misses_none(
    recorder: FogbookApplicationRecorder,
) -> None:
    wanted = []
    with recorder.subscribe(topics=["rare"]) as subscription:
        for _ in range(3):
            recorder.insert_events([stored() for _ in range(700)])
            wanted.extend(recorder.insert_events([StoredEvent(uuid4(), 1, "rare", b"")]) or ())
            assert next(subscription).id == wanted[-1]
    assert wanted == [701, 1402, 2103]


def test_subscriptions_see_every_event_of_concurrent_writers_once_and_in_order(
    recorder: FogbookApplicationRecorder,
) -> None:
    writers, batches, size = 4, 15, 3

    def write() -> None:
        for _ in range(batches):
            recorder.insert_events([stored() for _ in range(size)])

    seen: list[int] = []
    with recorder.subscribe() as subscription:
        threads = [threading.Thread(target=write) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for notification in subscription:
            seen.append(notification.id)
            if len(seen) == writers * batches * size:
                break
        for thread in threads:
            thread.join()
    assert seen == list(range(1, writers * batches * size + 1))


def test_a_subscription_outlives_the_loss_of_its_connections(
    recorder: FogbookApplicationRecorder, database: Database
) -> None:
    with recorder.subscribe() as subscription:
        recorder.insert_events([stored()])
        assert next(subscription).id == 1
        with database.superuser() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
                (database.name, connection.info.backend_pid),
            )
        recorder.insert_events([stored()])
        assert next(subscription).id == 2


def test_errors_of_the_database_become_those_of_the_library(
    recorder: FogbookApplicationRecorder, database: Database
) -> None:
    for statement, error in (
        ("SELECT 1/0", DataError),
        ("SELECT nothing FROM nowhere", ProgrammingError),
        ("DELETE FROM events", ProgrammingError),
        ("INSERT INTO recorder_events VALUES (NULL, '', '', 1, '', '')", IntegrityError),
    ):
        with pytest.raises(error), recorder.datastore.cursor() as cursor:
            cursor.execute(statement)
    with database.superuser() as killer, pytest.raises(OperationalError):  # noqa: PT012 - the cut comes in between
        with recorder.datastore.cursor() as cursor:
            killer.execute("SELECT pg_terminate_backend(%s)", (cursor.connection.info.backend_pid,))
            cursor.execute("SELECT 1")
    recorder.datastore.close()
    with pytest.raises(ProgrammingError, match="closed"):
        recorder.insert_events([stored()])
