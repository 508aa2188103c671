"""The cache of features: whole entries or none, whatever happens."""

import hashlib
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from heimdall_data.feature_cache import FeatureCache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEY = hashlib.sha256(b"a session").hexdigest()


def tensors(seed=0):
    """What the dataset stores of a session."""
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(3, 8, 4)).astype(np.float32),
        "present": np.array([True, False, True]),
        "unusable": np.frombuffer(b'{"B": "empty"}', np.uint8),
    }


def same(found, expected):
    """Whether both hold the same arrays."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
        for name in expected
    )


def test_what_is_stored_comes_back(tmp_path):
    """Also from another object on the same folder, as in another process."""
    FeatureCache(tmp_path).put(KEY, tensors())
    assert same(FeatureCache(tmp_path).get(KEY), tensors())
    assert FeatureCache(tmp_path).get(KEY[::-1]) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_or_lost_tail_is_noticed(tmp_path, data):
    """Training on a damaged feature is worse than computing it again."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    path = next(tmp_path.glob("*/*.safetensors"))
    intact = path.read_bytes()
    broken = bytearray(intact)
    bit = data.draw(st.integers(0, 8 * len(intact) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    path.write_bytes(broken[: data.draw(st.sampled_from([len(intact), bit // 8]))])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = cache.get(KEY)
    # A flipped space of the header's padding changes nothing that is read.
    assert same(found, tensors()) if found else "is damaged" in str(said[0].message)
    assert path.exists() == (found is not None)


WRITER = """
import sys
import numpy as np
from heimdall_data.feature_cache import FeatureCache

cache = FeatureCache(sys.argv[1])
print("ready", flush=True)
while True:
    cache.put(sys.argv[2], {"features": np.full((3, 128, 512), float(sys.argv[3]), np.float32)})
"""


def test_readers_see_whole_entries_while_writers_are_killed(tmp_path):
    """Workers share the folder, and the kernel kills some of them."""
    cache = FeatureCache(tmp_path)
    seen = set()
    for value in "1234":
        arguments = [sys.executable, "-c", WRITER, str(tmp_path), KEY, value]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while (found := cache.get(KEY)) is None or found["features"][0, 0, 0] != float(value):
                pass
            for _ in range(30):
                seen.add(len(np.unique(cache.get(KEY)["features"])))
            os.kill(writer.pid, signal.SIGKILL)
        seen.add(len(np.unique(cache.get(KEY)["features"])))
    assert seen == {1}


def test_what_killed_writers_left_is_removed_after_an_hour(tmp_path):
    """Half-written files would fill the disk over the years; fresh ones are being written."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    old, fresh = tmp_path / "partial" / "old", tmp_path / "partial" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert cache.remove_abandoned() == 1
    assert fresh.exists()
    assert not old.exists()


def test_a_full_disk_costs_one_warning_and_no_run(tmp_path):
    """The cache saves time; a run must not end for want of it."""
    script = """
import resource, signal, sys, warnings
import numpy as np
from heimdall_data.feature_cache import FeatureCache

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
warnings.simplefilter("always")
cache = FeatureCache(sys.argv[1])
for key in ("aa", "bb"):
    cache.put(key, {"features": np.zeros(10_000, np.float32)})
print(cache.get("aa"))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "None\n"
    assert ran.stderr.count("cannot be written") == 1
    assert "free some space" in ran.stderr
    assert not list((tmp_path / "partial").iterdir())


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path):
    """The path may be a file by mistake."""
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="cannot be written .* choose another folder"):
        cache.put(KEY, tensors())
    cache.put(KEY, tensors())
