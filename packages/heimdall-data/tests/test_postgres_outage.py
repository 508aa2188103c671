"""A Postgres that stops while it is used, on a server of this file's own."""

import multiprocessing
import threading

import psutil
import pytest
from heimdall_data import Catalogue, HeimdallDataset, ObjectStore
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import new_session
from heimdall_features import FeatureConfig
from torch.utils.data import DataLoader

N_SESSIONS = 6


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory):
    """Servers that may be stopped without harm to other tests, with some sessions."""
    with EmbeddedStack(tmp_path_factory.mktemp("outage")) as stack:
        store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
        store.ensure_bucket()
        with Catalogue(stack.database_url) as catalogue:
            catalogue.create_schema()
            sessions = [new_session(name=f"{n}") for n in range(N_SESSIONS)]
            ingest(catalogue, store, sessions, progress=False)
        yield stack


@pytest.fixture
def catalogue(own_stack):
    """Connected once, so that the server is known to be right."""
    with Catalogue(own_stack.database_url, patience_s=30) as opened:
        opened.stations()
        yield opened


class Outage:
    """The server killed as by a failing machine, and started again after a while."""

    def __init__(self, stack, for_s):
        (number,) = (server.pid for server in stack.status().servers if server.name == "Postgres")
        postgres = psutil.Process(number)
        killed = [postgres, *postgres.children(recursive=True)]
        for process in killed:
            process.kill()
        # What serves a connection answers for a moment after its parent has gone.
        psutil.wait_procs(killed)
        self._back = threading.Timer(for_s, stack.start)
        self._back.start()

    def over(self):
        """Return when the server answers again."""
        self._back.join()


@pytest.mark.slow
def test_a_server_restarted_while_a_cursor_is_open_is_read_again(own_stack, catalogue, caplog):
    """All sessions or an error: what was read before the restart is not taken for all."""
    outages = []

    def read(connection):
        with connection.cursor("half") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT id FROM heimdall.recording_sessions")
            rows = iter(cursor)
            found = [next(rows)]
            if not outages:
                outages.append(Outage(own_stack, for_s=0.5))
            return found + list(rows)

    assert len(catalogue.read(read)) == N_SESSIONS
    outages[0].over()
    assert caplog.text.count("lost database") == 1


@pytest.mark.slow
def test_ten_seconds_without_a_server_in_mid_epoch_are_waited_out(own_stack, catalogue):
    """Of a large catalogue each batch is read from it; a night's training goes on."""
    config = FeatureConfig(receivers=("Torino",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
    dataset = HeimdallDataset(catalogue.sessions(load_up_to=0), config, own_stack.s3)
    batches = iter(DataLoader(dataset, num_workers=1, prefetch_factor=1))
    seen = [next(batches)["session_id"]]
    outage = Outage(own_stack, for_s=10)
    seen += [batch["session_id"] for batch in batches]
    outage.over()
    assert seen == [[dataset.sessions.session_id(n)] for n in range(N_SESSIONS)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_starts_during_an_outage_waits_as_well(own_stack, catalogue, method):
    """Workers start anew with each epoch."""
    outage = Outage(own_stack, for_s=2)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert len(pool.apply(catalogue.stations)) == 2
    outage.over()


@pytest.mark.slow
def test_a_server_that_is_gone_for_good_is_an_error_in_the_end(own_stack):
    """With how long it was waited for, and without the password."""
    with Catalogue(own_stack.database_url, patience_s=1) as impatient:
        impatient.stations()
        outage = Outage(own_stack, for_s=3)
        with pytest.raises(CatalogueError, match=r"went away and did not come back within 1 s"):
            impatient.stations()
        outage.over()
        assert [station.name for station in impatient.stations()] == ["Genova", "Torino"]
