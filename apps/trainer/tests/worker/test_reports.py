"""What the result backend is told, however long it is away."""

from types import SimpleNamespace

import pytest
from heimdall_trainer.worker import reports
from heimdall_trainer.worker.job_folder import JobFolder, Progress
from heimdall_trainer.worker.reports import Reports


class Backend:
    """A result backend that is out of reach for a while."""

    connection_errors = (ConnectionError,)

    def __init__(self, n_failures):
        self.n_failures = n_failures
        self.told = []

    def store_result(self, task_id, result, state, **_):
        """Fail, or keep it."""
        if self.n_failures:
            self.n_failures -= 1
            raise ConnectionError("refused")
        self.told.append((state, result))


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Reports to a backend that fails the first three times, and the backend."""
    monkeypatch.setattr(reports, "SECONDS_TO_TRY_AGAIN", 0)
    backend = Backend(3)
    task = SimpleNamespace(
        backend=backend,
        request=SimpleNamespace(id="a-task"),
        app=SimpleNamespace(attendant=SimpleNamespace(closing=False)),
        update_state=lambda state, meta: backend.store_result("a-task", meta, state),
    )
    folder = JobFolder(tmp_path)
    folder.report(Progress(stage="training"))
    return Reports(task, folder), backend


def test_a_result_is_told_when_the_backend_is_back(told):
    """Celery gives up after half a minute, and a night's result would be lost to who asked."""
    there, backend = told
    assert there.wait_for_backend({"run_id": "a"})
    assert backend.told == [("SUCCESS", {"run_id": "a"})]


def test_a_worker_that_ends_waits_for_no_backend(told):
    """The result is in the task's folder, and the task comes again."""
    there, backend = told
    there._task.app.attendant.closing = True
    assert not there.wait_for_backend({"run_id": "a"})
    assert backend.told == []


def test_progress_that_cannot_be_told_disturbs_nothing(told):
    """A training goes on without an audience, and says what is new when there is one again."""
    there, backend = told
    for epoch in range(5):
        there._folder.report(Progress(stage="training", epoch=epoch))
        there.tell()
    assert [said["epoch"] for _, said in backend.told] == [3, 4]
