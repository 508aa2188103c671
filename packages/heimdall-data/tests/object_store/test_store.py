"""One bucket of a real object store, and stores that are not there."""

import contextlib
import http.server
import pickle
import re
import socketserver
import threading
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from heimdall_data.embedded.state import LOOPBACK, free_ports
from heimdall_data.errors import DataError, ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store import store
from heimdall_data.object_store.settings import S3Settings
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.session_reader import SessionReader
from heimdall_data.testing.fixtures import one_receiver_session
from heimdall_data.testing.tls import behind_tls
from heimdall_features.testing import addresses, has_password
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

real_server = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def nowhere(**changes):
    """Settings of a store that does not run."""
    known = {
        "endpoint_url": f"http://{LOOPBACK}:{free_ports(1)[0]}",
        "access_key": "who",
        "secret_key": "hunter2",
    }
    return S3Settings(**(known | changes))


@real_server
@given(data=st.binary(max_size=99), offset=st.integers(0, 99), n_bytes=st.integers(1, 99))
def test_a_span_is_as_much_of_an_object_as_there_is(raw_iq_store, data, offset, n_bytes):
    """A pack of features may be cut, and what is left of it must be told from a fault."""
    raw_iq_store.put("key", data)
    if offset < len(data):
        assert raw_iq_store.get_span("key", offset, n_bytes) == data[offset:][:n_bytes]
    else:
        with pytest.raises(ObjectUnreadable, match="InvalidRange"):
            raw_iq_store.get_span("key", offset, n_bytes)


def test_a_listing_of_several_pages_has_every_name_as_it_is(raw_iq_store, monkeypatch):
    """Pages are of a thousand; and names are quoted on their way."""
    monkeypatch.setattr(store, "LISTED_PER_REQUEST", 2)
    keys = ["a b", "a%2Fb", "a&<b", "a+b", "a/ä"]
    for key in keys:
        raw_iq_store.put(key, key.encode())
    listed = raw_iq_store.list("a")
    assert sorted(found.key for found in listed) == keys
    assert [(found.size, found) for found in listed] == [
        (len(found.key.encode()), raw_iq_store.stat(found.key)) for found in listed
    ]
    assert raw_iq_store.find(keys) == {found.key: found for found in listed}


@real_server
@given(before=st.binary(max_size=4096), data=st.binary(max_size=4096))
def test_what_was_put_last_comes_back_until_it_is_deleted(raw_iq_store, before, data):
    """Repairing an upload is uploading it again; two who clean up may meet."""
    raw_iq_store.put("a/b.npy", before)
    raw_iq_store.put("a/b.npy", data)
    assert raw_iq_store.get("a/b.npy") == data
    assert raw_iq_store.stat("a/b.npy").size == len(data)
    raw_iq_store.delete("a/b.npy")
    raw_iq_store.delete("a/b.npy")
    assert raw_iq_store.stat("a/b.npy") is None


@real_server
@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_any_name_in_a_key_is_only_a_name(raw_iq_store, name):
    """Names of stations come from outside, with spaces, accents and question marks."""
    key = f"named/{name.replace('/', '_')}.x"
    raw_iq_store.put(key, name.encode())
    assert raw_iq_store.get(key) == name.encode()


def test_many_objects_are_found_with_the_versions_that_each_has(raw_iq_store):
    """A cache key made from a listing must be the one made from single answers."""
    keys = ["s/1/a b&<c>.npy", "s/1/\u00e9\u202e", "s/1/\x0b", "s-2/x", "s/2/x/y", "t"]
    for key in keys:
        raw_iq_store.put(key, key.encode())
    found = raw_iq_store.find([*keys, "s/1/missing"])
    assert found == {key: raw_iq_store.stat(key) for key in keys}
    assert raw_iq_store.find([]) == {}


def test_a_listing_with_few_of_the_wanted_is_given_up(raw_iq_store, monkeypatch):
    """Else a run with a hundred sessions would list a bucket of millions."""
    monkeypatch.setattr(store, "LISTED_PER_REQUEST", 20)
    for number in range(45):
        raw_iq_store.put(f"s/{number:02}", b"x")
    assert list(raw_iq_store.find(["s/03", "s/30", "s/44"])) == ["s/03"]


def test_only_keys_below_the_prefix_are_listed(raw_iq_store):
    """Ingestion asks what one session has."""
    ours = ["sessions/a/1", "sessions/a/2"]
    for key in (*ours, "sessions/b/1"):
        raw_iq_store.put(key, b"x")
    assert [found.key for found in raw_iq_store.list("sessions/a/")] == ours


def test_a_missing_object_is_told_from_a_broken_store(raw_iq_store):
    """One excludes a recording, the other ends the run."""
    with pytest.raises(ObjectMissing, match="'sessions/1/x' in bucket 'test-"):
        raw_iq_store.get("sessions/1/x")


@pytest.mark.parametrize("key", ["", "/", "a//b", "../../etc/passwd", "x" * 2000])
def test_an_odd_key_is_an_error_of_ours_and_nothing_else(raw_iq_store, key):
    """Keys are read from the database: whatever stands there costs one recording at most."""
    with pytest.raises(DataError):
        raw_iq_store.get(key)


def test_a_missing_bucket_is_named(stack):
    """The first mistake in a new configuration."""
    store = ObjectStore(stack.s3, "heimdall-raw-qi")
    told = "'heimdall-raw-qi' in http://"
    with pytest.raises(StoreError, match=told):
        store.get("key")
    with pytest.raises(StoreError, match=told):
        store.require_bucket()


def test_a_bucket_name_that_cannot_be_is_an_error_of_ours(stack):
    """The client library refuses it before the server can."""
    with pytest.raises(StoreError, match="'Not A Bucket'"):
        ObjectStore(stack.s3, "Not A Bucket").get("key")


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_credentials_are_told_without_showing_them(stack, wrong):
    """The second mistake in a new configuration; its message ends up in a log."""
    store = ObjectStore(replace(stack.s3, **{wrong: "hunter2"}), "heimdall-models")
    told = "HEIMDALL_S3_SECRET_KEY"
    with pytest.raises(StoreError, match=told) as caught:
        store.get("key")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_hangs_up_is_named():
    """Something listens there, and it is no object store."""
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://{LOOPBACK}:{server.server_address[1]}"
        with pytest.raises(StoreError, match=where):
            ObjectStore(nowhere(endpoint_url=where), "bucket").bucket_exists()
        server.shutdown()


MINIO_SAYS = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message><Key>key</Key><BucketName>b</BucketName>
<Resource>/b/key</Resource><RequestId>17</RequestId><HostId>dd9025</HostId></Error>"""


def refuse(request, status, code, message):
    """Answer a request as MinIO does."""
    body = MINIO_SAYS.format(code=code, message=message).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/xml")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "told"),
    [
        (507, "XMinioStorageFull", "reached its minimum free drive", StoreError, "no space for"),
        (400, "XMinioAdminBucketQuotaExceeded", "Bucket quota", StoreError, "raise the quota"),
        (
            *(400, "AuthorizationHeaderMalformed", "expecting 'eu-1'", StoreError),
            "expecting 'eu-1'.*HEIMDALL_S3_REGION",
        ),
        (
            400,
            "XMinioInvalidObjectName",
            "unsupported",
            ObjectUnreadable,
            "'key' in bucket 'iq-",
        ),
        (503, "XMinioServerNotInitialized", "wait", StoreError, "XMinioServerNotInitialized"),
    ],
)
def test_what_only_minio_answers_is_understood(status, code, message, kind, told):
    """Operators run MinIO; its full disk is no outage, and its strict names cost one recording."""
    n_asked = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            """Refuse."""
            n_asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            refuse(self, status, code, message)

        def log_message(self, *_):
            """Print nothing."""

    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = nowhere(endpoint_url=f"http://{LOOPBACK}:{server.server_address[1]}")
        with pytest.raises(kind, match=told) as caught:
            ObjectStore(settings, "iq-bucket").put("key", b"x")
        server.shutdown()
    assert type(caught.value) is kind
    # Only a server that starts is asked again.
    assert (len(n_asked) > 1) == (status == 503)


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (405, "MethodNotAllowed"), (501, "NotImplemented")],
)
def test_objects_of_a_store_that_does_not_list_are_asked_for_one_by_one(status, code):
    """Gateways and policies may give objects and refuse listings; a run needs none."""
    n_listings = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            """Give any object."""
            self.send_response(200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", "3")
            self.end_headers()

        def do_GET(self):
            """Refuse a listing."""
            n_listings.append(self.path)
            refuse(self, status, code, "no")

        def log_message(self, *_):
            """Print nothing."""

    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reader = SessionReader(
            nowhere(endpoint_url=f"http://{LOOPBACK}:{server.server_address[1]}")
        )
        (measurement,) = one_receiver_session(1, "iq-bucket", "key").measurements
        listed = reader.listed([measurement])
        assert reader.versions(measurement, listed) == (("one", 3),)
        server.shutdown()
    assert (listed, len(n_listings)) == ({}, 1)


def test_a_store_that_is_away_is_waited_for_once():
    """Asking for each object would take the same patience again."""
    (measurement,) = one_receiver_session(1, "iq-bucket", "key").measurements
    with pytest.raises(StoreError, match="no usable answer"):
        SessionReader(nowhere(patience_s=0)).listed([measurement])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:9000",
        "ftp://host",
        "http://my host:9000",
        "http://host:99999",
        "http://[::1",
        "http://me:hunter2@host",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused_at_once(url):
    """Before anything runs, and without repeating a password that stands in it."""
    with pytest.raises(StoreError, match="HEIMDALL_S3_ENDPOINT_URL") as caught:
        nowhere(endpoint_url=url)
    assert "hunter2" not in str(caught.value)


hosts = st.from_regex(r"[a-z0-9.-]{1,30}|\[::1\]", fullmatch=True)
ports = st.just("") | st.integers(1, 65_535).map(":{}".format)


@given(st.sampled_from(["http", "https"]), hosts, ports, st.text("abc/?#", max_size=5))
def test_an_endpoint_is_a_server_without_a_path(scheme, host, port, rest):
    """As it is copied from elsewhere: with a slash at its end or not."""
    url = f"{scheme}://{host}{port}"
    nowhere(endpoint_url=url)
    nowhere(endpoint_url=f"{url}/")
    with pytest.raises(StoreError, match="HEIMDALL_S3_ENDPOINT_URL"):
        nowhere(endpoint_url=f"{url}/path{rest}")


@given(st.sampled_from(["access", "secret"]), st.text(max_size=20))
def test_a_key_with_a_blank_is_refused_without_being_shown(which, key):
    """HTTP would refuse the header, and quote the key and the signature in its message."""
    hidden = f"hunter3{key} "
    with pytest.raises(StoreError, match=f"HEIMDALL_S3_{which.upper()}_KEY") as caught:
        nowhere(**{f"{which}_key": hidden})
    assert "hunter" not in str(caught.value)


REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")


@given(st.from_regex(REGION, fullmatch=True), st.text(max_size=70))
def test_a_region_is_a_name_or_is_refused(region, other):
    """It becomes part of the host's name and of every signature."""
    nowhere(region=region)
    assume(not REGION.fullmatch(other))
    with pytest.raises(StoreError) as caught:
        nowhere(region=other)
    assert repr(other) in str(caught.value)


def test_printing_the_settings_shows_no_secret():
    """Settings end up in tracebacks."""
    assert "hunter2" not in repr(nowhere())
    assert "hunter2" not in repr(ObjectStore(nowhere(), "bucket"))


def test_a_private_authority_is_trusted_by_the_setting_that_the_error_names(
    s3_settings, tmp_path, monkeypatch
):
    """The error said that the server does not run, and no page said what to set."""
    port = urlsplit(s3_settings.endpoint_url).port
    with behind_tls(port, tmp_path) as (url, authority):
        store = ObjectStore(replace(s3_settings, endpoint_url=url), s3_settings.raw_iq_bucket)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(StoreError, match=f"trust .* {url}: .*set SSL_CERT_FILE") as caught:
            store.require_bucket()
        assert "runs" not in str(caught.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(StoreError, match=r"no file .*gone\.pem'; .* SSL_CERT_FILE"):
            ObjectStore(store.settings, store.bucket).require_bucket()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        ObjectStore(store.settings, store.bucket).require_bucket()


def test_a_proxy_of_the_environment_is_asked_for_other_machines_alone(proxy, monkeypatch):
    """A company's proxy is the only way out, and knows nothing of this machine."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outside = nowhere(endpoint_url="http://store.invalid:9000", patience_s=0)
    with contextlib.suppress(StoreError):  # what is behind the proxy is none
        ObjectStore(outside, "bucket").exists("k")
    assert proxy.connections > 0
    n_before = proxy.connections
    with pytest.raises(StoreError, match="refused"):
        ObjectStore(nowhere(patience_s=0), "bucket").exists("k")
    assert proxy.connections == n_before
    monkeypatch.setenv("HTTP_PROXY", f"http://who:hunter2@{LOOPBACK}:{free_ports(1)[0]}")
    with pytest.raises(StoreError, match=rf"proxy http://\*\*\*@{LOOPBACK}:\d+ .*NO_PROXY"):
        ObjectStore(outside, "bucket").exists("k")
    monkeypatch.setenv("HTTP_PROXY", "http://who:hunter/2@proxy:3128")
    with pytest.raises(StoreError, match="HTTP_PROXY") as caught:
        ObjectStore(outside, "bucket").exists("k")
    assert "hunter" not in str(caught.value)


@given(addresses())
def test_no_part_of_a_password_in_an_endpoint_is_said(made):
    """It has no place there, and is typed there all the same."""
    address, _ = made
    with pytest.raises(StoreError, match="HEIMDALL_S3_ENDPOINT_URL") as caught:
        nowhere(endpoint_url=address)
    assert not has_password(str(caught.value))


def test_a_store_works_after_pickling(raw_iq_store):
    """A DataLoader's workers get their copy that way, and connect by themselves."""
    raw_iq_store.put("key", b"content")
    copy = pickle.loads(pickle.dumps(raw_iq_store))
    assert copy.settings == raw_iq_store.settings
    assert copy.get("key") == b"content"
