"""Addresses: no password of theirs is shown, and what else there is to them stays readable."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from heimdall_features.addresses import (
    certificate_problem,
    is_ambiguous,
    may_hold_password,
    proxy_for,
    redacted,
    shown_address,
    trusted_certificates,
)
from heimdall_features.testing import AWKWARD, addresses, has_password
from hypothesis import given
from hypothesis import strategies as st


@given(addresses())
def test_no_part_of_a_password_is_shown(made):
    """The rest of one with an @ was shown as the host, of one with a / as the path."""
    address, _ = made
    assert not has_password(shown_address(address))
    assert may_hold_password(address)


@given(addresses(), st.sampled_from(["API request to {} failed", "{!r}: invalid", "a {}\nb"]))
def test_a_librarys_message_has_no_password_of_the_address_that_it_had(made, message):
    """They quote the whole address, or what they take for its host."""
    address, password = made
    assert not has_password(redacted(message.format(address), address))
    if not is_ambiguous(address):  # A library does not get the others.
        assert not has_password(redacted(message.format(password), address))


@given(st.text(st.sampled_from("ab1-" + AWKWARD), min_size=1, max_size=6))
def test_an_escaped_password_makes_no_address_ambiguous(password):
    """The advice that an error gives must work."""
    address = f"postgresql://u:{quote(password, safe='')}@h:5432/d"
    assert not is_ambiguous(address)
    assert shown_address(address) == "postgresql://***@h:5432/d"


@pytest.mark.parametrize("character", "@/?#[]\\ \n%")
def test_a_character_on_which_libraries_disagree_makes_an_address_ambiguous(character):
    """The one would take the password's rest for the host that the other finds after it."""
    assert is_ambiguous(f"http://u:a{character}b@h:1/")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:p@h/d?sslmode=require", "postgresql://***@h/d?***"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("redis://u@h/0", "redis://***@h/0"),
        ("postgresql:///d", "postgresql:///d"),
        ("postgresql://%2Frun%2Fpg/d", "postgresql://%2Frun%2Fpg/d"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://h:1/a%3Fpassword%3Db", "http://h:1/***"),
        ("http://[::1", "***"),
        ("http://h:9000/a@b", "***"),
        ("sqlite:////home/a@b/x y.db", "sqlite:////home/a@b/x y.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("models:/name@production", "models:/name@production"),
        ("/home/a b/mlruns", "/home/a b/mlruns"),
        ("host=h dbname=d", "***"),
    ],
)
def test_what_is_no_secret_of_an_address_is_shown(address, shown):
    """An operator must see which server does not answer."""
    assert shown_address(address) == shown


@pytest.mark.parametrize("text", ["Torino", "1e-4", "a@b", "2026-01-01T00:00:00+00:00", "/a=1/b"])
def test_ordinary_values_hold_no_password(text):
    """They would be hidden in what is printed, and refused in a file."""
    assert not may_hold_password(text)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost/", "http://[::1]:1"])
def test_a_server_on_this_machine_is_asked_directly(monkeypatch, url):
    """Its proxy knows another machine by that name."""
    monkeypatch.setenv("HTTP_PROXY", "proxy:3128")
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for(url) is None
    assert proxy_for("http://store:9000") == "http://proxy:3128"
    assert proxy_for("https://store:9000") is None
    monkeypatch.setenv("NO_PROXY", "store")
    assert proxy_for("http://store:9000") is None


def test_the_certificates_of_the_setting_are_trusted_and_else_the_systems(monkeypatch, tmp_path):
    """A store with a private authority was reached by one client and refused by the other."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert trusted_certificates() == str(tmp_path / "ca.pem")
    monkeypatch.delenv("SSL_CERT_FILE")
    found = trusted_certificates()
    assert found is None or "BEGIN CERTIFICATE" in Path(found).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("(_ssl.c: certificate verify failed: unable to get local issuer certificate)", "SSL_CERT"),
        ("certificate verify failed: self-signed certificate (_ssl.c:1)", "SSL_CERT_FILE"),
        ("certificate verify failed: certificate has expired (_ssl.c:1)", "server's certificate"),
        ("certificate verify failed: IP address mismatch, certificate", "address"),
        ("Connection refused", None),
    ],
)
def test_a_certificate_that_is_not_trusted_names_the_setting(said, remedy):
    """The advice was to check that the server runs."""
    found = certificate_problem(OSError(said))
    assert (found is None) == (remedy is None)
    assert remedy is None or re.search(remedy, found)
