"""Which faults are retried and for how long, without a store."""

import threading
import time
from types import SimpleNamespace

import pytest
import urllib3
from heimdall_data.object_store.errors import (
    FAULTS,
    BrokenObject,
    DamagedObject,
    Fault,
    classify,
    store_error,
)
from heimdall_data.object_store.retry import ANSWERED, Retry
from hypothesis import given, settings
from hypothesis import strategies as st
from minio.error import S3Error

pytestmark = pytest.mark.slow


def answer(code, status):
    """An answer of the store that is an error."""
    return S3Error(
        response=SimpleNamespace(status=status, headers={}, data=b""),
        code=code,
        message="",
        resource="",
        request_id="",
        host_id="",
    )


class Pauses(threading.Event):
    """Never set; records every pause and does not sleep."""

    def __init__(self):
        super().__init__()
        self.taken_s = []

    def wait(self, timeout=None):
        """Record a pause."""
        self.taken_s.append(timeout)
        return False


outages = st.sampled_from(
    [
        answer("SlowDown", 503),
        answer("TooManyRequests", 429),
        ConnectionResetError(),
        urllib3.exceptions.NewConnectionError(None, "refused"),
        BrokenObject("cut"),
    ]
)
permanent = st.sampled_from(
    [answer("NoSuchKey", 404), answer("AccessDenied", 403), ValueError("a bad name")]
)


@given(st.integers(400, 599), st.text(min_size=1, max_size=20).filter("InternalError".__ne__))
def test_an_answer_heals_if_the_server_is_busy_or_broken(status, code):
    """A client's mistake stays one; a server's fault may be over in a second."""
    heals = status >= 500 or status in (408, 429)
    assert classify(answer(code, status)) is (Fault.OUTAGE if heals else Fault.PERMANENT)


def test_a_store_that_does_not_say_why_leads_to_its_log_and_disk():
    """SeaweedFS on a full disk, as of a demo, answers with nothing but this."""
    told = store_error(answer("InternalError", 500), "http://store", "bucket", "key")
    assert "the store's log says why; its disk may be full" in str(told)


@given(outages | permanent, st.integers(1, 4))
def test_a_fault_is_the_same_however_often_it_is_wrapped(fault, depth):
    """The client's library reports what it gave up on as the reason of another error."""
    wrapped = fault
    for _ in range(depth):
        wrapped = urllib3.exceptions.MaxRetryError(None, "/", wrapped)
    expected = Fault.OUTAGE if isinstance(fault, (S3Error, BrokenObject)) else classify(fault)
    assert classify(wrapped) is expected


@settings(max_examples=20)
@given(st.floats(0.001, 0.2))
def test_the_last_attempt_is_at_the_end_of_the_patience(patience_s):
    """A server that comes back in time must be found, whatever the pauses add up to."""
    ANSWERED.add("http://known")
    attempts_s = []

    def request():
        attempts_s.append(time.monotonic())
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        Retry("http://known", patience_s).call(request)
    assert attempts_s[-1] - attempts_s[0] >= patience_s * 0.99


@given(st.lists(outages, max_size=8))
def test_a_store_that_answered_before_is_asked_until_it_answers(faults):
    """With pauses that double from 0.1 s to 5 s, each varied by half."""
    ANSWERED.add("http://known")
    pauses, left = Pauses(), list(faults)

    def request():
        if left:
            raise left.pop(0)
        return "answer"

    assert Retry("http://known", 60.0, pauses).call(request) == "answer"
    assert len(pauses.taken_s) == len(faults)
    for n, pause_s in enumerate(pauses.taken_s):
        assert 0.5 <= pause_s / min(0.1 * 2**n, 5) <= 1.5


@given(st.lists(outages, max_size=3), permanent)
def test_a_permanent_fault_ends_the_retries_at_once(faults, last):
    """The answer would be the same for ever."""
    left = [*faults, last, AssertionError("asked once more")]

    def request():
        raise left.pop(0)

    with pytest.raises(type(last)):
        Retry("http://known", 60.0, Pauses()).call(request)
    assert len(left) == 1


@given(outages, st.floats(0, 1e3))
def test_once_interrupted_nothing_is_retried(fault, patience_s):
    """Ctrl-C ends the waiting in every thread."""
    interrupted, n_requests = threading.Event(), []
    interrupted.set()

    def request():
        n_requests.append(1)
        raise fault

    with pytest.raises(FAULTS):
        Retry("http://known", patience_s, interrupted).call(request)
    assert len(n_requests) == 1


@given(st.integers())
def test_only_an_answer_makes_a_store_known(number):
    """A store that never answered is not waited for."""
    url = f"http://host-{number}"

    def refused():
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        Retry(url, 0.0).call(refused)
    assert url not in ANSWERED
    Retry(url + "-up", 0.0).call(int)
    assert url + "-up" in ANSWERED


@given(st.lists(outages, max_size=3))
def test_an_object_with_other_bytes_is_fetched_four_times(faults):
    """What the link damaged comes whole the next time; what the store damaged never does."""
    left, n_requests = list(faults), []

    def request():
        n_requests.append(1)
        raise left.pop() if left else DamagedObject("another MD5 sum")

    ANSWERED.add("http://known")
    with pytest.raises(DamagedObject):
        Retry("http://known", 60.0, Pauses()).call(request)
    assert len(n_requests) == len(faults) + 4
