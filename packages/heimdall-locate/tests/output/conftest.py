"""A position with everything that can be drawn."""

import dataclasses

import pytest
from heimdall_locate import Candidate, Position, ReceiverResult, Site, from_gaussians

NASTY = """</script><script>document.title="hacked"</script> & "Ærø" 'x' \N{SNOWMAN}"""


@pytest.fixture(scope="session")
def sites() -> list[Site]:
    """Three receivers, of which one has a name that must be escaped."""
    return [
        Site("DF0KL", 53.665337, 7.282766),
        Site("F1JEK", 45.779290, 0.614638),
        Site(NASTY, 47.1721, 8.42683),
    ]


@pytest.fixture(scope="session")
def position(sites: list[Site]) -> Position:
    """Two candidates, and a receiver without a site or figures."""
    first = Candidate(0.9, 50.0152, 9.0112, ((4e7, 1e7), (1e7, 9e7)))
    second = Candidate(0.1, 47.9, -3.9, ((2e8, 0.0), (0.0, 1e8)))
    receivers = [
        ReceiverResult(site.name, used=True, residual_us=k - 1.0, sigma_us=2.0, snr_db=40.0)
        for k, site in enumerate(sites)
    ]
    receivers.append(ReceiverResult("G7UAK", used=False, reason="no GNSS lock"))
    return dataclasses.replace(
        from_gaussians([first, second]),
        receivers=tuple(receivers),
        frequency_hz=77_500,
        propagation="ground wave",
        termination="two candidates <remain>",
    )
