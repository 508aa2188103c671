"""One opening of a checkpoint: networks, times, ensembles and receivers come back as they were."""

import os
import sys
from dataclasses import asdict

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, ModelError, Region
from heimdall_models.checkpoint import model_record
from heimdall_models.timing.network import TimingNet, region_prior
from heimdall_models.trained import RunRecord, Trained, save_ensemble, save_with_timing
from hypothesis import given
from hypothesis import strategies as st
from timing_cases import REGION, SITES, arrivals, positions_deg

CONFIG = LocalizationConfig(backbone="test_convnext", n_receivers=len(SITES))


@pytest.fixture(scope="module")
def spectrograms(tmp_path_factory):
    """Two checkpoints as Lightning writes them, with something that only resuming needs."""
    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = LocalizationModule(CONFIG, REGION, [[[-80.0]]] * 7, [[[10.0]]] * 7)
        contents = {
            "state_dict": module.state_dict(),
            "heimdall_models": model_record(CONFIG, REGION),
            "optimizer_states": [torch.zeros(9)],
        }
        paths.append(tmp_path_factory.mktemp("mel") / f"{seed}.ckpt")
        torch.save(contents, paths[-1])
    return paths


@pytest.fixture(scope="module")
def timing():
    """A timing network that has learned something."""
    network = TimingNet(REGION, SITES).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for values in network.parameters():
            values += 0.1 * torch.randn(values.shape, generator=generator)
        network.log_temperature.fill_(0.3)
        network.unexplained_limit.fill_(4.0)
    return network


@pytest.fixture(scope="module")
def timed(spectrograms, timing):
    """The same checkpoints with timing networks beside."""
    return [
        save_with_timing(p, timing, SITES, p.with_name(f"timed-{p.name}")) for p in spectrograms
    ]


@pytest.fixture(scope="module")
def ensemble(spectrograms, tmp_path_factory):
    """An ensemble's file whose disagreement counts half."""
    trained = Trained.merge(map(Trained.open, spectrograms))
    network = trained.network()
    network.disagreement_weight.fill_(0.5)
    return save_ensemble(trained, network, tmp_path_factory.mktemp("both") / "ensemble.ckpt")


@pytest.fixture(scope="module")
def inputs():
    """Features and arrival times of four sessions."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(4, len(SITES), 128, 32, generator=generator) * 10 - 80
    return features, torch.from_numpy(arrivals(positions_deg(4)))


def answers(network, inputs, n_inputs):
    """All outputs in one row a session."""
    with torch.inference_mode():
        outputs = network(*inputs[:n_inputs])
    return torch.cat([output.reshape(len(output), -1) for output in outputs], dim=1)


def changed(path, tmp_path, change):
    """A copy of a checkpoint whose records are updated."""
    contents = torch.load(path, weights_only=True)
    for key, values in change.items():
        contents.setdefault(key, {}).update(values)
    torch.save(contents, copy := tmp_path / f"changed-{path.name}")
    return copy


def test_a_file_is_opened_once(ensemble, timed):
    """A checkpoint of gigabytes lies on a network drive; every further opening reads it again."""
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    for path in (ensemble, timed[0]):
        before = len(opened)
        assert Trained.open(path).network()
        names = [os.fspath(name) for name in opened[before:] if isinstance(name, str | os.PathLike)]
        # The archive's directory is looked at before the file is read.
        assert names.count(str(path)) <= 3


def test_a_timing_network_comes_back_the_same(timed, timing):
    """Calibration included: it is most of what makes an ellipse honest."""
    found = Trained.open(timed[0]).single
    rows = torch.from_numpy(arrivals(positions_deg(5)))
    with torch.inference_mode():
        one, two = (network(rows, region_prior(5)) for network in (timing, found.timing))
    assert torch.equal(one.position, two.position)
    assert torch.equal(one.covariance, two.covariance)
    assert not found.timing.training
    assert found.sites == SITES
    assert found.receivers == tuple(site.name for site in SITES)


def test_times_leave_the_network_of_spectrograms_as_it_was(spectrograms, timed, inputs):
    """One file is handed on, not two that may be mixed up."""
    alone, beside = (Trained.open(paths[0]) for paths in (spectrograms, timed))
    assert alone.single.module.config == beside.single.module.config
    levels = beside.network().levels
    assert torch.equal(answers(alone.network(), inputs, 1), answers(levels, inputs, 1))


numbers, texts = st.none() | st.integers(0), st.none() | st.text()
names = st.none() | st.lists(st.text()).map(tuple)


@pytest.mark.slow
@given(st.builds(RunRecord, run_id=texts, seed=numbers, batch_size=numbers, receivers=names))
def test_the_record_of_a_run_comes_back(record):
    """Resuming needs the run, its batches and its receivers; older files have no such record."""
    assert RunRecord.of({"heimdall_run": asdict(record), "epoch": 1}) == record
    assert RunRecord.of({"epoch": 1}) == RunRecord()


def test_a_checkpoint_has_its_receivers_in_its_run_or_not_at_all(spectrograms, tmp_path):
    """They are compared with the data's before anything is exported."""
    run = {"heimdall_run": {"receivers": ["A", "B"]}}
    assert Trained.open(changed(spectrograms[0], tmp_path, run)).single.receivers == ("A", "B")
    nameless = Trained.open(spectrograms[0]).single
    assert nameless.receivers is nameless.timing is nameless.sites is None


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_an_ensemble_comes_back_the_same(tmp_path, spectrograms, timed, inputs, n_inputs):
    """Its calibration included, and nothing of the training but its result."""
    trained = Trained.merge(map(Trained.open, timed if n_inputs == 2 else spectrograms))
    network = trained.network()
    network.disagreement_weight.fill_(0.4)
    path = save_ensemble(trained, network, tmp_path / "ensemble.ckpt")
    loaded = Trained.open(path)
    assert len(loaded.members) == 2
    found = loaded.network()
    assert not found.training
    assert torch.equal(answers(found, inputs, n_inputs), answers(network, inputs, n_inputs))
    assert b"optimizer_states" not in path.read_bytes()


def test_ensembles_are_merged_member_by_member(ensemble, spectrograms):
    """Every network counts alike, whichever file it is in; calibration was of another ensemble."""
    three = Trained.merge(map(Trained.open, [ensemble, spectrograms[0]]))
    assert [member.name for member in three.members] == [
        f"{ensemble}, member 1",
        f"{ensemble}, member 2",
        str(spectrograms[0]),
    ]
    assert three.network().disagreement_weight == 1


def test_an_ensemble_is_no_single_network(ensemble, timing, tmp_path):
    """Its first network alone would look like a model, and be another one."""
    with pytest.raises(ModelError, match=r"ensemble\.ckpt, member 1"):
        _ = Trained.open(ensemble).single
    with pytest.raises(ModelError, match=r"ensemble\.ckpt"):
        save_with_timing(ensemble, timing, SITES, tmp_path / "both.ckpt")


def test_members_with_and_without_times_are_not_merged(spectrograms, timed):
    """An answer of one is not of the other's kind."""
    mixed = Trained.merge(map(Trained.open, [timed[0], spectrograms[1]]))
    with pytest.raises(ModelError, match=r"2\.ckpt .*timed-1\.ckpt"):
        mixed.network()


def test_a_file_may_be_written_over_itself(tmp_path, spectrograms, timing):
    """A run that is repeated must not fill a disk, nor leave half a file."""
    path = changed(spectrograms[0], tmp_path, {})
    save_with_timing(path, timing, SITES, path)
    assert Trained.open(path).single.sites == SITES
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_where_nothing_can_be_written(tmp_path, spectrograms, timing):
    """A full disk must not look like a checkpoint."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_with_timing(spectrograms[0], timing, SITES, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_timing_network_of_another_region_is_refused(tmp_path, spectrograms):
    """In the other's plane its answers would be kilometres off, and as sure as ever."""
    other = TimingNet(Region(45.3, 8.6, 60_000.0), SITES)
    with pytest.raises(ModelError, match=r"45\.3"):
        save_with_timing(spectrograms[0], other, SITES, tmp_path / "both.ckpt")
    assert not (tmp_path / "both.ckpt").exists()


def test_receivers_in_another_order_than_the_network_s_are_refused(tmp_path, spectrograms, timing):
    """Whoever feeds the model goes by the names in the file."""
    path = save_with_timing(spectrograms[0], timing, SITES[::-1], tmp_path / "both.ckpt")
    with pytest.raises(ModelError, match=r"both\.ckpt .* order"):
        Trained.open(path)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("heimdall_timing", {"format": 9}, "format 9"),
        ("heimdall_timing", {"sites": "[{}]"}, "receivers"),
        ("heimdall_timing", {"sites": "no json"}, "receivers"),
        ("heimdall_timing", {"sites": "[" * 10**5}, "receivers"),
        ("heimdall_timing", {"state": {}}, "no weights of a timing network"),
        ("heimdall_models", {"region": Region(-30.0, 150.0, 92e3).to_json()}, "km"),
        ("heimdall_models", {"region": Region(45.3, 8.6, 60e3).to_json()}, "45.3"),
        ("heimdall_ensemble", {"format": 9}, "format 9"),
        ("heimdall_ensemble", {"members": []}, "without members"),
        ("heimdall_ensemble", {"members": [1]}, "without members"),
        ("heimdall_ensemble", {"members": [{}]}, "member 1"),
        ("heimdall_ensemble", {"disagreement_weight": None}, "None"),
        ("heimdall_ensemble", {"disagreement_weight": -1.0}, r"-1\.0"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, timed, ensemble, key, change, message):
    """Each in a message that starts from the file."""
    path = ensemble if key == "heimdall_ensemble" else timed[0]
    with pytest.raises(ModelError, match=message) as caught:
        Trained.open(changed(path, tmp_path, {key: change}))
    assert "changed-" in str(caught.value) or "km" in message
