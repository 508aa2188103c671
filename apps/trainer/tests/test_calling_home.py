"""No command asks a host that the user did not name: `https_proxy` in conftest.py hears them."""

import subprocess
import sys


def test_the_proxy_of_all_tests_hears_who_is_asked(https_proxy):
    """The proxy can fail the tests: a request of a test's process is heard."""
    program = "import urllib.request; urllib.request.urlopen('https://vendor.example')"
    subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    heard = [line for line in https_proxy.asked if "vendor.example:443" in line]
    assert len(heard) == 1
    https_proxy.asked.remove(heard[0])
