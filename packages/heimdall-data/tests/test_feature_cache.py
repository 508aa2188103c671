"""The cache of features: whole entries or none, whatever happens."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from crc32c import crc32c
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.cache.entry import DATA_FROM, CacheStatus, DamagedEntry, encode, take_into
from heimdall_data.errors import DataError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

KEY = hashlib.sha256(b"a session").hexdigest()


def tensors(seed=0):
    """What the dataset stores of a session."""
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(3, 8, 4)).astype(np.float32),
        "present": np.array([True, False, True]),
        "unusable": np.frombuffer(b'{"B": "empty"}', np.uint8),
    }


def read(cache, key=KEY, shape=(3, 8, 4)):
    """All tensors of an entry, or None."""
    out = np.full(shape, np.nan, np.float32)
    rest = cache.get_into(key, "features", out)
    return None if rest is None else {**rest, "features": out}


def same(found, expected):
    """Whether both hold the same arrays."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and np.array_equal(found[name], expected[name], equal_nan=found[name].dtype.kind == "f")
        for name in expected
    )


dtypes = st.sampled_from([np.bool_, np.uint8, np.float32, np.float64])
arrays = dtypes.flatmap(
    lambda dtype: np_st.arrays(dtype, np_st.array_shapes(max_dims=3, min_side=0))
)


@given(st.dictionaries(st.text(max_size=5), arrays, min_size=1, max_size=4), st.data())
def test_any_tensors_come_back_from_disk_and_from_bytes(tmp_path_factory, held, data):
    """Nobody promises which one the format puts first, and a batch is read without a copy."""
    name = data.draw(st.sampled_from(sorted(held)))
    out = np.empty_like(held[name], order="C")
    assert same({**take_into(encode(held), name, out), name: out}, held)
    cache = FeatureCache(tmp_path_factory.mktemp("any"))
    cache.put(KEY, held)
    rows = np.empty((2, *held[name].shape), held[name].dtype)
    rest = cache.get_into(KEY, name, rows[1])
    assert same({**rest, name: rows[1]}, held)


@given(st.text("0123456789abcdef", min_size=2, max_size=64))
def test_what_a_cache_may_contain_is_told_by_the_beginning_of_a_key(tmp_path_factory, prefix):
    """If it holds no version of a session, the store need not be asked for the present one."""
    cache = FeatureCache(tmp_path_factory.mktemp("beginnings"))
    assert not cache.may_contain(prefix)
    cache.put(KEY, tensors())
    assert cache.may_contain(KEY[: len(prefix)])
    assert cache.may_contain(prefix) == KEY.startswith(prefix)


def test_a_tensor_of_another_shape_is_computed_again(tmp_path):
    """It is not what this version of the features is."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    with pytest.warns(RuntimeWarning, match=r"\(3, 8, 4\), not .* \(3, 8, 5\)"):
        assert read(cache, shape=(3, 8, 5)) is None
    assert not entries(tmp_path)


@pytest.mark.parametrize("held", [{"number": np.array([1])}, {"n" * 600: np.zeros(1)}])
def test_what_the_cache_cannot_hold_is_refused(tmp_path, held):
    """It would fail when it is read, far from the cause."""
    with pytest.raises(DataError, match=r"int64|1 tensors"):
        FeatureCache(tmp_path).put(KEY, held)


@given(data=st.data())
def test_any_flipped_bit_or_lost_tail_is_noticed(tmp_path_factory, data):
    """Training on a damaged feature is worse than computing it again."""
    folder = tmp_path_factory.mktemp("damaged")
    cache = FeatureCache(folder)
    cache.put(KEY, tensors())
    (path,) = entries(folder)
    intact = path.read_bytes()
    broken = bytearray(intact)
    bit = data.draw(st.integers(0, 8 * len(intact) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    lengths = [len(intact), bit // 8, 0, 3, 4, 8, 511, 512]
    path.write_bytes(broken[: data.draw(st.sampled_from(lengths))])
    with pytest.raises(DamagedEntry):
        take_into(path.read_bytes(), "features", np.empty((3, 8, 4), np.float32))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert read(cache) is None
    assert not path.exists()


def entries(folder):
    """The files of the entries."""
    return list(folder.glob("??/*.features"))


def filled(directory, n_entries, max_bytes):
    """A cache to which so many entries were written, each older than the next; their keys."""
    cache = FeatureCache(directory, max_bytes)
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(n_entries)]
    for age, key in zip(range(n_entries, 0, -1), keys, strict=True):
        cache.put(key, {"features": np.zeros(10_000, np.float32)})
        for path in directory.glob(f"*/{key}.*"):
            os.utime(path, (time.time() - 10_000 * age,) * 2)
    return cache, keys


def kept(directory, keys):
    """Whether there is an entry, for each key."""
    names = {path.stem for path in entries(directory)}
    return [key in names for key in keys]


headers = st.one_of(
    st.binary(max_size=90),
    st.sampled_from([b"[]", b"[" * 400, b'{"a": 1}', b'{"a": {}}']),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "I64"]),
            "shape": st.lists(st.integers(), max_size=3),
            "data_offsets": st.tuples(st.integers(), st.integers()),
        }
    ).map(lambda place: json.dumps({"features": place}).encode()),
)


@given(headers, st.binary(max_size=99))
def test_an_entry_with_any_header_is_an_answer_or_damaged(header, data):
    """A right checksum is easily made, and a bucket may be open to many."""
    file = (DATA_FROM - 16).to_bytes(8, "little") + header.ljust(DATA_FROM - 16) + data
    entry = b"HFC1" + crc32c(file).to_bytes(4, "little") + file
    with contextlib.suppress(DamagedEntry):
        take_into(entry, "features", np.empty((2,), np.float32))


def test_beyond_its_limit_the_cache_evicts_what_was_used_longest_ago(tmp_path):
    """A cache that grows for years would fill the disk."""
    cache, keys = filled(tmp_path, 100, 1_000_000)
    assert 0 < cache.status().n_bytes <= 1_000_000
    there = kept(tmp_path, keys)
    assert there == sorted(there)
    assert 15 <= sum(there) < 25


def test_an_entry_in_use_outlives_older_ones(tmp_path):
    """Else each epoch would evict what the next one begins with."""
    cache, keys = filled(tmp_path, 20, 1_000_000)
    assert read(cache, keys[0], (10_000,)) is not None
    for number in range(100, 112):
        key = hashlib.sha256(bytes([number])).hexdigest()
        cache.put(key, {"a": np.zeros(9_999, np.float32)})
    assert kept(tmp_path, keys[:2]) == [True, False]


FILLER = """
import hashlib, sys
import numpy as np
from heimdall_data.cache.disk import FeatureCache

cache = FeatureCache(sys.argv[1], 1_000_000)
for number in range(150):
    key = hashlib.sha256(f"{sys.argv[2]} {number}".encode()).hexdigest()
    cache.put(key, {"features": np.full(10_000, number, np.float32)})
    out = np.empty(10_000, np.float32)
    assert cache.get_into(key, "features", out) is None or (out == number).all()
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
    (tmp_path / "ab").touch()  # somebody's note, of two letters, is no folder of entries
    cache, keys = filled(tmp_path, 3, 10**9)
    assert cache.status().n_entries == 3
    assert cache.status().n_bytes >= 3 * 40_000
    assert cache.clear().n_entries == 3
    assert cache.status() == CacheStatus(0, 0)
    assert read(cache, keys[0], (10_000,)) is None


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
    cache, shape = FeatureCache(tmp_path), (3, 128, 512)
    cache.put(KEY, {"features": np.zeros(shape, np.float32)})
    seen = set()
    for value in "1234":
        arguments = [sys.executable, "-c", WRITER, str(tmp_path), KEY, value]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while read(cache, KEY, shape)["features"].max() != float(value):
                pass
            for _ in range(30):
                seen.add(len(np.unique(read(cache, KEY, shape)["features"])))
            os.kill(writer.pid, signal.SIGKILL)
        seen.add(len(np.unique(read(cache, KEY, shape)["features"])))
    assert seen == {1}


def test_what_killed_writers_left_is_removed_after_an_hour(tmp_path):
    """Half-written files would fill the disk over the years; fresh ones are being written."""
    cache = FeatureCache(tmp_path)
    cache.put(KEY, tensors())
    old, fresh = tmp_path / "partial" / "old", tmp_path / "partial" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.remove_abandoned()
    assert [*(tmp_path / "partial").iterdir()] == [fresh]


FULL = """
import sys, warnings
import numpy as np
from heimdall_data.cache.disk import FeatureCache

warnings.simplefilter("always")
cache = FeatureCache(sys.argv[1])
keys = [f"{number:02}" for number in range(40)]
for key in keys:
    cache.put(key, {"features": np.full(10_000, int(key), np.float32)})
for key in keys:
    out = np.empty(10_000, np.float32)
    found = cache.get_into(key, "features", out)
    assert found is None or (out == int(key)).all()
    print(found is not None)
assert not list((cache.directory / "partial").iterdir())
"""


def mounted(mount, folder):
    """How to run a command with `mount` done on `folder`, in a mount namespace of its own."""
    return ["unshare", "-rm", "sh", "-c", f'{mount} "$0" && exec "$@"', str(folder)]


def may_run(prefix):
    """Whether this machine lets us run commands so."""
    return subprocess.run([*prefix, "true"], capture_output=True).returncode == 0


def test_a_full_disk_costs_one_warning_and_no_run(tmp_path):
    """The cache saves time; a run must not end for want of it, nor read half an entry."""
    prefix = mounted("mount -t tmpfs -o size=1m full", tmp_path)
    if not may_run(prefix):
        # A limit on the size of files makes writes fail likewise.
        prefix = ["sh", "-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "sh"]
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    there = ran.stdout.split()
    assert there == sorted(there, reverse=True)
    assert there[-1] == "False"
    assert ran.stderr.count("cannot be written") == 1


READ = """
import sys, warnings
import numpy as np
from heimdall_data.cache.disk import FeatureCache

warnings.simplefilter("error")
cache = FeatureCache(sys.argv[1], 10**9)
cache.remove_abandoned()
print(cache.get_into(sys.argv[2], "features", np.empty((3, 8, 4), np.float32)) is not None)
"""


def read_as_another(prefix, folder):
    """Whether another process, run by `prefix`, gets the entry, without a warning."""
    command = [*prefix, sys.executable, "-c", READ, str(folder), KEY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_disk_that_can_only_be_read_is_a_good_cache(tmp_path):
    """Neither the use of an entry nor the end of an abandoned file can be noted there."""
    prefix = mounted('mount --bind "$0" "$0" && mount -o remount,bind,ro', tmp_path)
    if not may_run(prefix):
        pytest.skip("nothing can be mounted here")
    FeatureCache(tmp_path).put(KEY, tensors())
    (path,) = entries(tmp_path)
    abandoned = tmp_path / "partial" / "old"
    abandoned.touch()
    for old in (path, abandoned):
        os.utime(old, (time.time() - 7200,) * 2)
    assert read_as_another(prefix, tmp_path) == "True"
    assert abandoned.exists()


def test_another_users_entry_is_not_deleted(tmp_path):
    """It cannot be read, which does not mean that it is damaged."""
    FeatureCache(tmp_path).put(KEY, tensors())
    (path,) = entries(tmp_path)
    path.chmod(0)
    # Without its capabilities root is a user like others.
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    assert read_as_another(prefix, tmp_path) == "False"
    assert path.exists()


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path):
    """The path may be a file by mistake."""
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match=f"{tmp_path}/file cannot be written"):
        cache.put(KEY, tensors())
    cache.put(KEY, tensors())


def test_entries_may_be_read_by_whom_the_folder_lets_in(tmp_path):
    """Users of one machine share a folder; what one computes the others need not."""
    before = os.umask(0o027)
    try:
        FeatureCache(tmp_path).put(KEY, tensors())
    finally:
        os.umask(before)
    (path,) = tmp_path.glob("??/*")
    assert path.stat().st_mode & 0o777 == 0o640
