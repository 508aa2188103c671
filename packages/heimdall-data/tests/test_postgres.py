"""The catalogue on a real Postgres: which sessions are samples, and every way it can fail."""

import logging
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.queries import belonging, object_address, sessions_query
from heimdall_data.catalogue.session import FilterError, SessionFilter, Station
from heimdall_data.embedded.state import free_ports
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.split import split_sessions
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session
from heimdall_features.testing import addresses, has_password
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

NOWHERE = new_session(source="Unknown")
NOWHERE = replace(NOWHERE, source=replace(NOWHERE.source, latitude_deg=None, longitude_deg=None))


@pytest.fixture
def filled(catalogue, raw_iq_store):
    """A catalogue with one session of each kind, of which one is a sample."""
    sessions = [
        new_session(),
        new_session(name="undecided", approval_status="pending"),
        new_session(name="bad", approval_status="rejected"),
        new_session(name="running", status="in_progress"),
        new_session(name="broken", status="failed", stations=()),
        NOWHERE,
    ]
    ingest(catalogue, raw_iq_store, sessions, progress=False)
    return catalogue


def execute(catalogue, statement, *values):
    """Change the database as its owner, behind our back."""
    with catalogue.transaction() as connection:
        return connection.execute(statement, values or None)


def disown(catalogue, station):
    """Leave the measurements of a station to their object's key."""
    execute(
        catalogue,
        "UPDATE heimdall.measurements m SET recording_session_id = NULL "
        "FROM heimdall.websdr_stations s WHERE s.id = m.websdr_station_id AND s.name = %s",
        station,
    )


def test_only_an_approved_and_completed_session_of_a_known_place_is_a_sample(filled):
    """A model trained on what a person rejected would be worse than none."""
    (session,) = filled.sessions()
    assert (session.session_name, session.source_name) == ("morning", "Beacon")
    assert session.position_deg == (45.0, 8.0)


def test_what_is_left_out_is_counted_once_with_its_reason(filled):
    """The run says what it did not train on."""
    assert filled.rejected_counts() == {
        "not completed": 2,
        "not approved yet": 1,
        "rejected": 1,
        "source without a position": 1,
    }


def test_a_session_whose_recordings_are_not_in_the_catalogue_is_counted(filled):
    """It is approved and completed, and there is nothing to read."""
    execute(filled, "DELETE FROM heimdall.measurements")
    assert filled.sessions() == []
    assert filled.rejected_counts()["no recordings"] == 1


def test_levels_without_recordings_are_refused_by_name(filled, caplog):
    """An S-meter's reading is no recording; its session must not look as if it were lost."""
    execute(
        filled,
        "UPDATE heimdall.measurements m SET iq_data_location = NULL "
        "FROM heimdall.websdr_stations s WHERE s.id = m.websdr_station_id AND s.name = 'Genova'",
    )
    (session,) = filled.sessions()
    assert [m.station for m in session.measurements] == ["Torino"]
    assert "levels without recordings" not in filled.rejected_counts()
    (warning,) = caplog.messages
    assert "signal_strength_db and no recording (Genova " in warning
    execute(filled, "UPDATE heimdall.measurements SET iq_data_location = NULL")
    assert filled.sessions() == []
    assert filled.rejected_counts()["levels without recordings"] == 1
    execute(filled, "UPDATE heimdall.measurements SET signal_strength_db = NULL")
    caplog.clear()
    assert filled.sessions() == []
    assert filled.rejected_counts()["no recordings"] == 1
    assert caplog.messages == []


def test_a_session_comes_with_what_each_station_measured(filled, raw_iq_store):
    """Everything that a dataset needs, from one query."""
    (session,) = filled.sessions()
    genova, torino = session.measurements
    assert (genova.station, torino.station) == ("Genova", "Torino")
    assert torino.station_deg == TORINO.position_deg
    assert torino.bucket == raw_iq_store.bucket
    assert raw_iq_store.get(torino.key) == new_recording(TORINO, seed=0).payload
    assert (torino.format, torino.sample_rate_hz) == ("npy", 12_500.0)
    assert (torino.snr_db, torino.signal_strength_db) == (20.0, -60.0)
    assert torino.start == session.start == new_session().start


def test_a_database_without_the_session_column_gives_the_same(filled):
    """Older backends know the session by the task id in the object's key alone."""
    before = filled.sessions()
    left_out = filled.rejected_counts()
    execute(filled, "ALTER TABLE heimdall.measurements DROP COLUMN recording_session_id")
    assert filled.sessions() == before
    assert filled.rejected_counts() == left_out


def test_measurements_whose_session_is_null_are_found_by_task_id(filled):
    """The column may be there and empty for what was recorded before it."""
    before = filled.sessions()
    disown(filled, "Genova")
    assert filled.sessions() == before


def test_the_column_is_believed_before_the_key(filled):
    """An object may have been moved below another task's prefix."""
    other = uuid.uuid4()
    execute(
        filled,
        "UPDATE heimdall.measurements SET iq_data_location = 's3://else/sessions/' || %s || '/x'",
        other,
    )
    (session,) = filled.sessions()
    assert {item.bucket for item in session.measurements} == {"else"}


@pytest.fixture
def as_role(filled, database_url):
    """Opens the filled catalogue as a role that may do what is granted to it."""
    role = f"reader_{uuid.uuid4().hex}"

    def administer(*statements):
        for statement in statements:
            execute(filled, sql.SQL(statement).format(sql.Identifier(role)))

    def opened(*grants):
        administer("CREATE ROLE {} LOGIN PASSWORD 'reader'", *grants)
        return Catalogue(make_conninfo(database_url, user=role, password="reader"))

    yield opened
    administer("DROP OWNED BY {}", "DROP ROLE {}")


def test_reading_needs_nothing_but_select(filled, as_role):
    """The trainer is given a role that cannot harm the backend's data."""
    with as_role(
        "GRANT USAGE ON SCHEMA heimdall TO {}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA heimdall TO {}",
        "ALTER ROLE {} SET default_transaction_read_only = on",
    ) as reader:
        assert reader.sessions() == filled.sessions()
        assert reader.rejected_counts() == filled.rejected_counts()
        assert reader.stations() == filled.stations()
        with pytest.raises(CatalogueError, match="read-only transaction"):
            execute(reader, "DELETE FROM heimdall.measurements")


def test_a_role_that_may_not_read_is_told_which_table(as_role):
    """The message is what the operator forwards to the administrator."""
    with (
        as_role() as stranger,
        pytest.raises(CatalogueError, match="schema heimdall for user 'reader_"),
    ):
        stranger.sessions()


def test_sample_rates_are_counted_by_the_server(filled):
    """The commonest is what recordings are brought to."""
    assert filled.sample_rates_hz() == {12_500.0: 2}
    assert filled.sample_rates_hz(SessionFilter(stations=("Genova",))) == {12_500.0: 1}
    execute(filled, "UPDATE heimdall.measurements SET iq_sample_rate = NULL")
    assert filled.sample_rates_hz() == {}


def test_stations_are_read_with_their_height(filled):
    """The report draws them, and the features are ordered by them."""
    assert filled.stations() == [GENOVA, TORINO]


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (SessionFilter(), ["early", "late"]),
        (SessionFilter(since=new_session().start + timedelta(minutes=1)), ["late"]),
        (SessionFilter(until=new_session().start + timedelta(minutes=1)), ["early"]),
        (SessionFilter(sources=("Other",)), ["late"]),
        (SessionFilter(source_types=("beacon",)), ["early"]),
        (SessionFilter(lowest_hz=144e6, highest_hz=146e6), ["early", "late"]),
        (SessionFilter(highest_hz=100e6), []),
        (SessionFilter(min_snr_db=25.0), ["late"]),
        (SessionFilter(max_error_margin_m=50.0), ["early"]),
        (SessionFilter(stations=("Genova",)), ["early"]),
    ],
)
def test_a_filter_keeps_what_it_says(catalogue, raw_iq_store, only, names):
    """Each condition alone, on the server; sessions come in the order of their starts."""
    early, late = new_session(name="early"), new_session(name="late", source="Other")
    source = replace(late.source, source_type=None, error_margin_m=900.0)
    late = replace(
        late,
        source=source,
        start=late.start + timedelta(hours=1),
        measurements=(replace(new_recording(TORINO), snr_db=30.0),),
    )
    ingest(catalogue, raw_iq_store, [late, early], progress=False)
    assert [session.session_name for session in catalogue.sessions(only)] == names


def test_variables_that_count_for_a_server_are_named_if_it_refuses(monkeypatch):
    """The address may be right, and what another program has set wrong."""
    monkeypatch.setenv("PGSSLMODE", "bogus")
    with pytest.raises(CatalogueError, match="runs; PGSSLMODE of the environment count too"):
        Catalogue("postgresql://me@127.0.0.1:1/x").stations()


moments = st.datetimes(datetime(1900, 1, 1), datetime(2199, 1, 1))


@given(moments)
def test_a_filter_without_a_zone_means_utc(moment):
    """Recordings are in UTC, wherever the trainer stands."""
    assert SessionFilter(since=moment) == SessionFilter(since=moment.replace(tzinfo=UTC))


@given(
    st.tuples(moments, moments).map(lambda pair: ("since", "until", *pair))
    | st.tuples(st.floats(0, 1e10), st.floats(0, 1e10)).map(
        lambda pair: ("lowest_hz", "highest_hz", *pair)
    )
)
def test_a_range_with_its_ends_exchanged_is_refused(drawn):
    """A run over no sessions would blame the catalogue."""
    first, last, *ends = drawn
    SessionFilter(**{first: min(ends), last: max(ends)})
    assume(ends[0] != ends[1])
    with pytest.raises(FilterError, match=f"{first}=.*{last}="):
        SessionFilter(**{first: max(ends), last: min(ends)})


@pytest.mark.parametrize("name", ["lowest_hz", "highest_hz", "min_snr_db", "max_error_margin_m"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_condition_that_is_no_finite_number_is_refused(name, value):
    """Nothing compares with NaN."""
    with pytest.raises(FilterError, match=f"{name}={value}"):
        SessionFilter(**{name: value})


def test_a_filter_on_stations_drops_the_other_measurements(filled):
    """Not the sessions that have others besides."""
    (session,) = filled.sessions(SessionFilter(stations=("Genova",)))
    assert [item.station for item in session.measurements] == ["Genova"]


def test_a_value_of_a_filter_is_never_part_of_the_query(filled):
    """Names are data: this one would empty a table."""
    name = "x'); DELETE FROM heimdall.measurements; --"
    assert filled.sessions(SessionFilter(stations=(name,), sources=(name,))) == []
    assert len(filled.sessions()) == 1


def explain(catalogue, *, by_id):
    """The server's plan, which it makes without indexes only where there is none that serves."""
    with catalogue.transaction() as connection:
        query = sessions_query(SessionFilter(), belonging(connection, ""), by_id=by_id)
        connection.execute("SET LOCAL enable_seqscan = off")
        rows = connection.execute(f"EXPLAIN {query}", {"ids": [str(uuid.uuid4())]})
        return "\n".join(row[0] for row in rows)


def test_every_session_is_read_with_the_help_of_indexes(filled):
    """A million sessions must not be compared with seven million measurements."""
    plan = explain(filled, by_id=False)
    assert "recording_sessions_usable" in plan
    assert "measurements_session" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("some_by_task", [False, True])
def test_a_batch_of_sessions_is_found_by_indexes_alone(filled, some_by_task):
    """A worker asks for one with every batch: reading a whole table would take seconds."""
    if some_by_task:
        disown(filled, "Genova")
    plan = explain(filled, by_id=True)
    assert "measurements_session" in plan
    assert ("measurements_task" in plan) == some_by_task
    assert "Seq Scan" not in plan


@given(st.from_regex(r"[a-z0-9.-]+", fullmatch=True), st.text())
def test_a_location_is_a_bucket_and_a_key(bucket, key):
    """Also when it was written by hand, or without its bucket."""
    assert object_address(f"s3://{bucket}/{key}", "mine") == (bucket, key.lstrip("/"))
    assert object_address(f"s3://{bucket}", "mine") == (bucket, "")
    assert object_address(f"/sessions/{key}", "mine") == ("mine", f"sessions/{key}")


def test_a_schema_is_made_once(catalogue):
    """`heimdall ingest` asks for it every time, and must not touch what is there."""
    execute(catalogue, "ALTER TABLE heimdall.known_sources ADD COLUMN note text DEFAULT 'theirs'")
    catalogue.create_schema()
    assert execute(catalogue, "SELECT note FROM heimdall.known_sources").fetchall() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "ALTER TABLE heimdall.measurements RENAME COLUMN iq_data_format TO form",
            r"column heimdall\.measurements\.iq_data_format;",
        ),
        (
            "ALTER TABLE heimdall.known_sources DROP COLUMN latitude",
            r"column heimdall\.known_sources\.latitude;",
        ),
        ("DROP TABLE heimdall.measurements", r"table heimdall\.measurements;"),
        ("DROP SCHEMA heimdall CASCADE", "`heimdall ingest`"),
    ],
)
def test_a_schema_of_another_version_is_named_by_what_it_lacks(catalogue, change, told):
    """`column "x" does not exist` would leave the reader to search."""
    execute(catalogue, change)
    for read in (catalogue.sessions, catalogue.rejected_counts, catalogue.stations):
        with pytest.raises(CatalogueError, match=told):
            read()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"password": "hunter2"}, r"user 'heimdall' \(.*password authentication failed"),
        ({"dbname": "hunter"}, r"database 'hunter' on 127\.0\.0\.1:\d+ .*not exist"),
        ({"port": "closed"}, r":\d+ as user .*refused.*HEIMDALL_DATABASE_URL"),
    ],
)
def test_a_database_that_does_not_open_is_named_without_the_password(stack, wrong, told):
    """Host, port, database, user and reason: all that is needed to set it right."""
    if "port" in wrong:
        wrong = {"port": free_ports(1)[0]}
    url = make_conninfo(stack.database_url, **wrong)
    secret = conninfo_to_dict(url)["password"]
    with Catalogue(url) as catalogue, pytest.raises(CatalogueError, match=told) as caught:
        catalogue.sessions()
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert secret not in repr(catalogue)


def test_what_is_no_url_is_refused_at_once():
    """Without repeating it: it may be a password in the wrong place."""
    with pytest.raises(CatalogueError, match="HEIMDALL_DATABASE_URL") as caught:
        Catalogue("hunter2 is my password")
    assert "hunter2" not in str(caught.value)


@given(addresses())
def test_no_part_of_a_password_is_said_whatever_is_in_it(made):
    """The rest of one with an @ was shown as the host that is out of reach."""
    try:
        said: Catalogue | CatalogueError = Catalogue(made[0])
    except CatalogueError as refused:
        said = refused
    assert not has_password(said.where if isinstance(said, Catalogue) else str(said))
    assert getattr(said, "__cause__", None) is None


def test_a_password_that_must_be_escaped_is_named_as_the_cause():
    """The server was blamed, under a host name that was half of the password."""
    with pytest.raises(CatalogueError, match=r"HEIMDALL_DATABASE_URL .* @ is %40"):
        Catalogue("postgresql://heimdall:Tr@nsmit2026@127.0.0.1:5432/heimdall")


@pytest.mark.parametrize(
    "said", ["TimeZone=Asia/Tokyo", "DateStyle=SQL,DMY", "client_encoding=SQL_ASCII"]
)
def test_times_and_names_are_the_same_whatever_a_server_prefers(filled, database_url, said):
    """Times are part of the keys of computed features: machines that share them must agree."""
    (session,) = filled.sessions()
    with Catalogue(make_conninfo(database_url, options=f"-c {said}")) as elsewhere:
        (same,) = elsewhere.sessions()
    assert same == session
    assert str(same.start) == "2026-03-01 12:00:00+00:00"
    assert str(same.measurements[0].start) == str(session.measurements[0].start)


def test_nothing_of_ours_is_left_in_a_session_of_the_server(filled, raw_iq_store):
    """Behind a pooler, such as pgbouncer, the next transaction has one that others have set."""

    def everything():
        ingest(filled, raw_iq_store, [new_session()], progress=False)
        sessions = filled.sessions()
        counts = filled.rejected_counts(), filled.sample_rates_hz()
        return list(sessions), str(sessions[0].start), filled.unlocated_sessions(), counts

    expected = everything()
    for _ in range(8):  # psycopg prepares what was executed six times
        with filled.transaction() as connection:
            # Without psycopg's knowledge, as it is behind a pooler.
            for said in (
                "DEALLOCATE ALL",
                "SET TimeZone = 'Asia/Kathmandu'",
                "SET DateStyle = SQL",
            ):
                connection.pgconn.exec_(said.encode())
        assert everything() == expected


def test_a_connection_that_was_cut_is_replaced(catalogue, database_url):
    """Firewalls cut idle ones in the night; nobody need notice."""
    catalogue.create_schema()
    with catalogue.transaction() as connection:
        number = connection.info.backend_pid
    cut(database_url, number)
    assert catalogue.stations() == []


def test_reading_begins_again_when_its_connection_is_cut(filled, database_url, caplog):
    """All of what there is or nothing: half a catalogue would be a false one."""
    seen = []

    def read(connection):
        seen.append(connection.info.backend_pid)
        if len(seen) == 1:
            cut(database_url, seen[0])
        return connection.execute("SELECT 7").fetchone()

    assert filled.read(read) == (7,)
    assert len(set(seen)) == 2
    assert "terminating connection due to administrator command" in caplog.text


def test_a_connection_that_is_always_cut_is_an_error_in_the_end(filled, database_url):
    """Trying for ever would look like working."""
    with pytest.raises(CatalogueError, match=r"lost database '.*' on 127.0.0.1:\d+: .*terminat"):
        filled.read(
            lambda connection: (
                cut(database_url, connection.info.backend_pid),
                connection.execute("SELECT 7"),
            )
        )


@pytest.fixture
def narrow(filled, as_role, database_url):
    """Address of the filled catalogue for a role with one connection, and that connection."""
    grants = (
        "GRANT USAGE ON SCHEMA heimdall TO {}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA heimdall TO {}",
    )
    with as_role(*grants) as reader, reader.transaction() as connection:
        role = connection.info.user
    url = make_conninfo(database_url, user=role, password="reader")
    with psycopg.connect(url) as holder:
        limit = sql.SQL("ALTER ROLE {} CONNECTION LIMIT 1").format(sql.Identifier(role))
        execute(filled, limit)
        yield url, holder


def test_a_server_without_a_free_connection_is_waited_for(narrow, filled):
    """Many trainings begin at once in the evening, and the first ones end soon."""
    url, holder = narrow
    freeing = logging.Handler()
    freeing.emit = lambda record: holder.close()
    log = logging.getLogger("heimdall_data.catalogue.catalogue")
    log.addHandler(freeing)
    try:
        with Catalogue(url) as reader:
            assert reader.sessions() == filled.sessions()
    finally:
        log.removeHandler(freeing)
    assert holder.closed


def test_a_server_that_never_has_a_free_connection_is_an_error_in_the_end(narrow):
    """`check HEIMDALL_DATABASE_URL` would send an operator to the wrong place."""
    url, holder = narrow
    told = r"too many connections for role .*raise max_connections or the role's limit"
    with Catalogue(url, patience_s=0.1) as reader, pytest.raises(CatalogueError, match=told):
        reader.stations()
    holder.close()
    with Catalogue(url, patience_s=1) as one, Catalogue(url, patience_s=1) as other:
        assert len(other.stations()) == 2
        other.close()
        with one.transaction(), pytest.raises(CatalogueError, match=f"no free connection.*{told}"):
            other.stations()


def cut(database_url, number):
    """As a server does that is shut down."""
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (number,))


@pytest.mark.parametrize("latitude", ["NULL", "'NaN'"])
def test_a_station_without_a_place_is_no_receiver_and_is_named(filled, caplog, latitude):
    """A model knows its receivers by position, and nobody would look for those recordings."""
    execute(filled, "ALTER TABLE heimdall.websdr_stations ALTER latitude DROP NOT NULL")
    execute(
        filled, f"UPDATE heimdall.websdr_stations SET latitude = {latitude} WHERE name = 'Genova'"
    )
    assert filled.stations() == [TORINO]
    (session,) = filled.sessions()
    assert [item.station for item in session.measurements] == ["Torino"]
    assert "'Genova'" in caplog.text


@pytest.mark.parametrize(
    ("table", "column", "value", "reason"),
    [
        ("known_sources", "latitude", "'NaN'", "source at an impossible position"),
        ("known_sources", "longitude", "'-Infinity'", "source at an impossible position"),
        ("known_sources", "latitude", "90.1", "source at an impossible position"),
        ("recording_sessions", "session_start", "'infinity'", "start at an impossible time"),
        ("recording_sessions", "session_start", "NULL", "start at an impossible time"),
        ("recording_sessions", "session_start", "'0044-03-15 BC'", "start at an impossible time"),
        ("recording_sessions", "session_start", "'20000-01-01'", "start at an impossible time"),
        ("websdr_stations", "longitude", "'NaN'", "stations without a position"),
    ],
)
def test_a_row_of_impossible_values_costs_its_own_sessions_alone(
    catalogue, raw_iq_store, table, column, value, reason
):
    """NaN is a label that no loss survives, and one bad date must not end every run."""
    bad = new_session("bad", "Bad", (Station("Far", 45.0, 8.0),))
    ingest(catalogue, raw_iq_store, [new_session(), bad], progress=False)
    chosen = {
        "known_sources": "name = 'Bad'",
        "recording_sessions": "session_name = 'bad'",
        "websdr_stations": "name = 'Far'",
    }
    execute(catalogue, f"ALTER TABLE heimdall.{table} ALTER {column} DROP NOT NULL")
    execute(catalogue, f"UPDATE heimdall.{table} SET {column} = {value} WHERE {chosen[table]}")
    names = [session.session_name for session in catalogue.sessions()]
    assert (names, catalogue.rejected_counts()) == (["morning"], {reason: 1})
    assert len(split_sessions(catalogue.sessions(), "source", (1, 0, 0)).train) == 1


def test_a_recording_at_an_impossible_time_is_of_its_sessions_time(filled):
    """It is there all the same, and its time only chooses a GPS week."""
    execute(filled, "UPDATE heimdall.measurements SET timestamp = 'infinity'")
    (session,) = filled.sessions()
    assert [item.start for item in session.measurements] == [None, None]


def test_a_statement_timeout_is_told_from_a_lost_server(database_url):
    """A server's limit strikes again however often the query is repeated."""
    limited = make_conninfo(database_url, options="-c statement_timeout=100ms")
    asked = []
    with Catalogue(limited) as catalogue:
        with pytest.raises(CatalogueError, match=r"statement timeout\); raise statement_timeout"):
            catalogue.read(
                lambda connection: connection.execute(asked.append(1) or "SELECT pg_sleep(5)")
            )
        assert catalogue.read(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
        cancel = "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)"
        with pytest.raises(CatalogueError, match=r"user request\); .* start again"):
            catalogue.read(lambda connection: connection.execute(cancel))
    assert asked == [1]


@pytest.mark.parametrize(
    ("state", "n_asked", "told"),
    [
        ("53100", 1, "refuses: full"),
        ("55P03", 1, "raise lock_timeout"),
        ("25P03", 1, "raise idle_in_transaction_session_timeout"),
        ("25P04", 1, "raise transaction_timeout"),
        ("40001", 3, "lost database"),
    ],
)
def test_only_what_may_pass_is_asked_again(database_url, state, n_asked, told):
    """A full disk is no restart; a conflict with a replica's replay is over the next time."""
    asked = []

    def query(connection):
        asked.append(1)
        connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{state}' USING MESSAGE = 'full'; END $$")

    with Catalogue(database_url) as catalogue, pytest.raises(CatalogueError, match=told):
        catalogue.read(query)
    assert len(asked) == n_asked
