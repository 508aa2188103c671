"""The cache of features: whole entries or none, whatever happens."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.cache.entry import CacheStatus
from heimdall_data.errors import DataError
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


def test_what_a_cache_may_contain_is_told_by_the_beginning_of_a_key(tmp_path):
    """Where it holds no version of a session, the store need not be asked which is there."""
    cache = FeatureCache(tmp_path)
    assert not cache.may_contain(KEY[:32])
    cache.put(KEY, tensors())
    assert cache.may_contain(KEY[:32])
    assert not cache.may_contain(KEY[:2] + KEY[30:])


def test_a_tensor_is_read_to_where_it_is_wanted(tmp_path):
    """A batch is read without a copy; the result must be that of the plain way."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    batch = np.full((2, 3, 8, 4), np.nan, np.float32)
    rest = cache.get_into(KEY, "features", batch[1])
    assert same({**rest, "features": batch[1]}, tensors())
    assert np.isnan(batch[0]).all()
    assert cache.get_into(KEY[::-1], "features", batch[1]) is None


def test_a_tensor_that_is_not_first_in_the_file_is_read_too(tmp_path):
    """Nobody promises which one the format puts first."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, {**tensors(), "wide": np.arange(3.0)})
    out = np.empty((3, 8, 4), np.float32)
    rest = cache.get_into(KEY, "features", out)
    assert same({**rest, "features": out}, {**tensors(), "wide": np.arange(3.0)})


def test_a_tensor_of_another_shape_is_computed_again(tmp_path):
    """Whatever wrote it, it is not what this version of the features is."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    with pytest.warns(RuntimeWarning, match=r"features is float32 \(3, 8, 4\), not .* \(3, 8, 5\)"):
        assert cache.get_into(KEY, "features", np.empty((3, 8, 5), np.float32)) is None
    assert KEY not in cache


def test_a_type_that_the_cache_does_not_know_is_refused(tmp_path):
    """It would fail when it is read, far from the cause."""
    with pytest.raises(DataError, match="stores no int64 tensor"):
        FeatureCache(tmp_path).put(KEY, {"number": np.array([1])})


@pytest.mark.parametrize(
    "read",
    [
        lambda cache: cache.get(KEY),
        lambda cache: cache.get_into(KEY, "features", np.empty((3, 8, 4), np.float32)),
    ],
    ids=["get", "get_into"],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_or_lost_tail_is_noticed(tmp_path, read, data):
    """Training on a damaged feature is worse than computing it again."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    path = next(tmp_path.glob("*/*.features"))
    intact = path.read_bytes()
    broken = bytearray(intact)
    bit = data.draw(st.integers(0, 8 * len(intact) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    path.write_bytes(broken[: data.draw(st.sampled_from([len(intact), bit // 8]))])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert read(cache) is None
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 3, 4, 8, 511, 512])
def test_the_beginning_of_an_entry_is_none(tmp_path, length):
    """A checksum that is cut off must not be taken for that of nothing."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    path = next(tmp_path.glob("*/*.features"))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert cache.get(KEY) is None


def filled(directory, n_entries, max_bytes):
    """A cache to which so many entries were written, each older than the next; their keys."""
    cache = FeatureCache(directory, max_bytes)
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(n_entries)]
    for age, key in zip(range(n_entries, 0, -1), keys, strict=True):
        cache.put(key, {"features": np.zeros(10_000, np.float32)})
        for path in directory.glob(f"*/{key}.*"):
            os.utime(path, (time.time() - 10_000 * age,) * 2)
    return cache, keys


def test_beyond_its_limit_the_cache_evicts_what_was_used_longest_ago(tmp_path):
    """A cache that grows for years would fill the disk."""
    cache, keys = filled(tmp_path, 100, 1_000_000)
    assert 0 < cache.status().n_bytes <= 1_000_000
    kept = [key in cache for key in keys]
    assert kept == sorted(kept)
    assert 15 <= sum(kept) < 25


def test_an_entry_in_use_outlives_older_ones(tmp_path):
    """Else each epoch would evict what the next one begins with."""
    cache, keys = filled(tmp_path, 20, 1_000_000)
    assert cache.get(keys[0]) is not None
    for number in range(100, 112):
        cache.put(hashlib.sha256(bytes([number])).hexdigest(), tensors())
        cache.put(
            hashlib.sha256(bytes([number, 1])).hexdigest(), {"a": np.zeros(9_999, np.float32)}
        )
    assert keys[0] in cache
    assert keys[1] not in cache


FILLER = """
import hashlib, sys
import numpy as np
from heimdall_data.cache.disk import FeatureCache

cache = FeatureCache(sys.argv[1], 1_000_000)
for number in range(150):
    key = hashlib.sha256(f"{sys.argv[2]} {number}".encode()).hexdigest()
    cache.put(key, {"features": np.full(10_000, number, np.float32)})
    found = cache.get(key)
    assert found is None or (found["features"] == number).all()
"""


def test_many_processes_keep_the_limit_together(tmp_path):
    """Workers of several runs share the folder; each may exceed by a twentieth for a while."""
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FILLER, str(tmp_path), name],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    said = [child.communicate()[1] for child in children]
    assert said == ["", "", ""]
    assert 0 < FeatureCache(tmp_path).status().n_bytes <= 1_000_000 * (1 + 3 / 20)


def test_status_counts_and_clear_empties(tmp_path):
    """What the commands of these names say and do."""
    assert FeatureCache(tmp_path / "never").status() == CacheStatus(0, 0)
    cache, keys = filled(tmp_path, 3, None)
    assert cache.status().n_entries == 3
    assert cache.status().n_bytes >= 3 * 40_000
    assert cache.clear().n_entries == 3
    assert cache.status() == CacheStatus(0, 0)
    assert cache.get(keys[0]) is None


WRITER = """
import sys
import numpy as np
from heimdall_data.cache.disk import FeatureCache

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


FULL = """
import sys, warnings
import numpy as np
from heimdall_data.cache.disk import FeatureCache

warnings.simplefilter("always")
cache = FeatureCache(sys.argv[1])
keys = [f"{number:02}" for number in range(40)]
for key in keys:
    cache.put(key, {"features": np.full(10_000, int(key), np.float32)})
found = [cache.get(key) for key in keys]
assert all((f["features"] == int(k)).all() for k, f in zip(keys, found) if f is not None)
assert not list((cache.directory / "partial").iterdir())
print(*(f is not None for f in found))
"""


def small_disk(folder):
    """How to run a command with a disk of 1 MB at `folder`, in a mount namespace of its own."""
    command = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m full "$0" && exec "$@"']
    return [*command, str(folder)]


def test_a_full_disk_costs_one_warning_and_no_run(tmp_path):
    """The cache saves time; a run must not end for want of it, nor read half an entry."""
    prefix = small_disk(tmp_path)
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        # Where nothing can be mounted, a limit on the size of files fails writes likewise.
        prefix = ["sh", "-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "sh"]
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    kept = ran.stdout.split()
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == "False"
    assert ran.stderr.count("cannot be written") == 1
    assert "free some space" in ran.stderr


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path):
    """The path may be a file by mistake."""
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="cannot be written .* choose another folder"):
        cache.put(KEY, tensors())
    cache.put(KEY, tensors())


def refused(*_arguments, **_options):
    """What the kernel says of another user's file, and of a disk that can only be read."""
    raise OSError(errno.EROFS, "Read-only file system")


def test_an_entry_whose_use_cannot_be_noted_is_sound(tmp_path, monkeypatch):
    """A cache on a disk that can only be read, or of another user, is good after an hour too."""
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    cache.put(KEY, tensors())
    (path,) = tmp_path.glob("??/*")
    os.utime(path, (time.time() - 7200,) * 2)
    monkeypatch.setattr("heimdall_data.cache.disk.os.utime", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(cache.get(KEY), tensors())


def test_another_users_leftovers_end_no_run(tmp_path, monkeypatch):
    """They are theirs to remove."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    old = tmp_path / "partial" / "old"
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    assert cache.remove_abandoned() == 0


def test_a_stray_file_among_the_folders_is_no_entry(tmp_path):
    """Somebody's note, of two letters."""
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    (tmp_path / "ab").touch()
    cache.put(KEY, tensors())
    assert cache.status().n_entries == 1
    assert cache.clear().n_entries == 1


def test_entries_may_be_read_by_whom_the_folder_lets_in(tmp_path):
    """Users of one machine share a folder; what one computes the others need not."""
    before = os.umask(0o027)
    try:
        FeatureCache(tmp_path).put(KEY, tensors())
    finally:
        os.umask(before)
    (path,) = tmp_path.glob("??/*")
    assert path.stat().st_mode & 0o777 == 0o640


def test_another_users_entry_is_not_deleted(tmp_path, monkeypatch):
    """It cannot be read, which says nothing of what is in it."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    (path,) = tmp_path.glob("??/*")

    def closed(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("error")
        patched.setattr("heimdall_data.cache.disk.os.open", closed)
        assert cache.get(KEY) is None
    assert path.exists()
