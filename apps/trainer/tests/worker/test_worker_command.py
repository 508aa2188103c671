"""`heimdall worker` that cannot work says why, before it takes a task."""

import sys
from pathlib import Path

import pytest
from heimdall_trainer.cli.app import app, main


def said(capsys, *words):
    """Exit status and message of `heimdall worker`."""
    with pytest.raises(SystemExit) as ended:
        main(["worker", *words])
    return ended.value.code, capsys.readouterr().err


def test_a_worker_without_a_broker_says_which_variable_to_set(capsys, monkeypatch):
    """The contract's words: the worker command says so."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    status, message = said(capsys)
    assert status == 1
    assert "no broker is configured (CELERY_BROKER_URL)" in message


@pytest.mark.parametrize(
    ("broker", "results"),
    [
        ("redis://:x@a:1/0;redis://:x@b:1/0", "redis://:x@a:1/0"),
        ("sentinel://a:1;sentinel://b:1", "sentinel://a:1;sentinel://b:1"),
        ("amqp://a", "rpc://"),
    ],
)
def test_results_are_kept_by_one_of_several_brokers(broker, results, tmp_path):
    """Celery would take a list for one address, and show its password as the port."""
    from heimdall_trainer.worker.service import TrainingService

    service = TrainingService(
        broker_url=broker,
        result_backend=None,
        state_directory=tmp_path,
        command=(),
        environment={},
    )
    assert service.conf.result_backend == results


def test_a_worker_without_celery_says_what_to_install(capsys, monkeypatch):
    """Who trains by hand does not have it."""
    for name in [n for n in sys.modules if n.startswith("heimdall_trainer.worker.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "celery", None)
    status, message = said(capsys, "--broker_url", "redis://h")
    assert status == 1
    assert "install heimdall-trainer[worker]" in message


def test_allowed_folders_come_from_the_environment_too(monkeypatch):
    """Containers have no command line that an operator likes to change."""
    monkeypatch.setenv("HEIMDALL_WORKER_ALLOW", "/shared disk:/models")
    _, bound, _ = app.parse_args(["worker"], exit_on_error=False, print_error=False)
    assert bound.arguments["allow"] == (Path("/shared disk"), Path("/models"))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("--broker_url redis://h --lease 0", 2, 'Invalid value "0.0" for --lease. Must be >= 1'),
        ("--broker_url redis://h --name ../x", 2, "--name is '../x'; it must be letters, digits"),
        ("--broker_url foo://u:geheim@h", 1, "CELERY_BROKER_URL"),
        ("--broker_url localhost", 1, "CELERY_BROKER_URL"),
        ("--broker_url redis://[h", 1, "CELERY_BROKER_URL"),
        ("--broker_url redis://u:geheim/x@h", 1, "CELERY_BROKER_URL"),
        ("--broker_url redis://h --result_backend foo://u:geheim@h", 1, "CELERY_RESULT_BACKEND"),
    ],
)
def test_what_cannot_be_is_refused_without_a_secret(capsys, monkeypatch, words, status, message):
    """Celery would print a traceback, or try to connect for ever."""
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    found, told = said(capsys, *words.split())
    assert found == status
    assert message in told
    assert "geheim" not in told
