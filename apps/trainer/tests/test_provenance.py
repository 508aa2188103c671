"""A model is only as good as the record of what it was made from."""

import subprocess
from types import SimpleNamespace

from heimdall_data.split import dataset_fingerprint
from heimdall_trainer.provenance import source_commit


def git(folder, *arguments):
    """Run git as somebody."""
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit_of(folder, file):
    """Make a repository with one committed file; its commit."""
    git(folder, "init", "--quiet")
    (folder / file).write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def test_a_checkout_tells_its_commit_and_whether_it_was_edited(tmp_path):
    """A figure that nobody can reproduce must not look as if somebody could."""
    commit = commit_of(tmp_path, "module.py")
    assert source_commit(tmp_path) == commit
    (tmp_path / "module.py").write_text("x = 2\n")
    assert source_commit(tmp_path) == f"{commit}-modified"


def test_a_package_in_somebody_elses_repository_has_no_commit(tmp_path):
    """A virtual environment often stands inside a project; its commit is not ours."""
    commit_of(tmp_path, "theirs.py")
    (tmp_path / "site-packages").mkdir()
    assert source_commit(tmp_path / "site-packages") is None
    assert source_commit(tmp_path / "nowhere") is None


def test_the_same_split_has_the_same_fingerprint():
    """And another side, or another session, has another."""
    a, b, c = (SimpleNamespace(id=name) for name in "abc")
    split = {"train": [a, b], "test": [c]}
    assert dataset_fingerprint(split) == dataset_fingerprint({"test": [c], "train": [b, a]})
    assert dataset_fingerprint(split) != dataset_fingerprint({"train": [a], "test": [b, c]})
    assert dataset_fingerprint(split) != dataset_fingerprint({"train": [a, b], "test": []})
