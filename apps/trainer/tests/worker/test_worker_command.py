"""`heimdall worker` that cannot work says why, before it takes a task."""

import sys

import pytest
from heimdall_trainer.cli.app import main


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


def test_a_worker_without_celery_says_what_to_install(capsys, monkeypatch):
    """Who trains by hand does not have it."""
    for name in [n for n in sys.modules if n.startswith("heimdall_trainer.worker.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "celery", None)
    status, message = said(capsys, "--broker_url", "redis://h")
    assert status == 1
    assert "install heimdall-trainer[worker]" in message


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--lease", "0", "--lease is 0.0; it must be a number of seconds of at least 1"),
        ("--name", "../x", "--name is '../x'; it must be letters, digits, dots, - and _"),
    ],
)
def test_flags_that_cannot_be_are_refused(capsys, flag, value, message):
    """With a lease of 0 every task would be given to everybody at once."""
    status, told = said(capsys, "--broker_url", "redis://h", flag, value)
    assert status == 2
    assert message in told


@pytest.mark.parametrize(
    ("broker", "backend", "variable"),
    [
        ("foo://u:geheim@h", None, "CELERY_BROKER_URL"),
        ("localhost", None, "CELERY_BROKER_URL"),
        ("redis://[h", None, "CELERY_BROKER_URL"),
        ("redis://u:geheim/x@h", None, "CELERY_BROKER_URL"),
        ("redis://h", "foo://u:geheim@h", "CELERY_RESULT_BACKEND"),
    ],
)
def test_an_address_that_celery_cannot_use_is_named_by_its_variable(
    capsys, monkeypatch, broker, backend, variable
):
    """Celery would say so with a traceback, or try to connect to it for ever."""
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    words = ("--result_backend", backend) if backend else ()
    status, told = said(capsys, "--broker_url", broker, *words)
    assert status == 1
    assert variable in told
    assert "geheim" not in told
