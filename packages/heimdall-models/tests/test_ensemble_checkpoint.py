"""An ensemble in one file: it says the same when it comes back, and is no single network."""

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, ModelError
from heimdall_models.checkpoint import described
from heimdall_models.timing.network import TimingNet
from heimdall_models.trained import Ensemble, save_ensemble, save_with_timing
from timing_cases import REGION, SITES, arrivals, positions_deg

CONFIG = LocalizationConfig(backbone="test_convnext", n_receivers=len(SITES))


@pytest.fixture(scope="module")
def spectrograms(tmp_path_factory):
    """Two checkpoints as Lightning writes them, less what only resuming needs."""
    return [checkpoint(tmp_path_factory.mktemp("mel") / f"{seed}.ckpt", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def timed(spectrograms):
    """The same with networks of times beside them."""
    paths = []
    for seed, mel in enumerate(spectrograms):
        timing = TimingNet(REGION, SITES)
        with torch.no_grad():
            for values in timing.parameters():
                values += 0.1 * seed
        paths.append(save_with_timing(mel, timing, SITES, mel.with_name(f"timed-{seed}.ckpt")))
    return paths


def checkpoint(path, seed):
    """A network of random weights as a file."""
    torch.manual_seed(seed)
    module = LocalizationModule(CONFIG, REGION, [[[-80.0]]] * 7, [[[10.0]]] * 7)
    contents = {"state_dict": module.state_dict(), "heimdall_models": described(CONFIG, REGION)}
    torch.save({**contents, "optimizer_states": [torch.zeros(9)]}, path)
    return path


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


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_what_comes_back_says_the_same(tmp_path, spectrograms, timed, inputs, n_inputs):
    """Its calibration included, and nothing of the training but what it came to."""
    ensemble = Ensemble.of(timed if n_inputs == 2 else spectrograms)
    network = ensemble.network()
    network.disagreement_weight.fill_(0.4)
    path = save_ensemble(ensemble, network, tmp_path / "ensemble.ckpt")
    loaded = Ensemble.load(path)
    assert len(loaded.members) == 2
    found = loaded.network()
    assert not found.training
    assert torch.equal(answers(found, inputs, n_inputs), answers(network, inputs, n_inputs))
    assert b"optimizer_states" not in path.read_bytes()


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_a_checkpoint_of_one_network_is_that_network(spectrograms, timed, inputs, n_inputs):
    """Whoever exports need not know which of the two a file is."""
    path = (timed if n_inputs == 2 else spectrograms)[0]
    ensemble = Ensemble.load(path)
    (member,) = ensemble.members
    levels = LocalizationModule.load(path).serving_net()
    assert (member.sites == SITES) == (n_inputs == 2)
    network = ensemble.network()
    assert type(network).__name__ == ("TimedServingNet" if n_inputs == 2 else "ServingNet")
    if n_inputs == 1:
        assert torch.equal(answers(network, inputs, 1), answers(levels, inputs, 1))


def test_ensembles_are_merged_member_by_member(tmp_path, spectrograms):
    """Every network counts alike, whichever file it is in; calibration was of another ensemble."""
    two = Ensemble.of(spectrograms)
    network = two.network()
    network.disagreement_weight.fill_(0.5)
    path = save_ensemble(two, network, tmp_path / "two.ckpt")
    three = Ensemble.of([path, spectrograms[0]])
    assert [member.name for member in three.members] == [
        f"{path}, member 1",
        f"{path}, member 2",
        str(spectrograms[0]),
    ]
    assert three.network().disagreement_weight == 1


def test_an_ensemble_is_not_loaded_as_one_of_its_members(tmp_path, spectrograms):
    """Its first network alone would look like a model, and be another one."""
    ensemble = Ensemble.of(spectrograms)
    path = save_ensemble(ensemble, ensemble.network(), tmp_path / "ensemble.ckpt")
    with pytest.raises(ModelError, match=r"ensemble\.ckpt holds an ensemble, and one network"):
        LocalizationModule.load(path)


def test_members_with_and_without_times_are_not_merged(spectrograms, timed):
    """What one of them says of a session is not of the other's kind."""
    with pytest.raises(
        ModelError, match=r"2\.ckpt cannot be merged with .*timed-0\.ckpt: it takes"
    ):
        Ensemble.of([timed[0], spectrograms[1]]).network()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "ensemble format 9; this version reads 1"),
        ({"members": []}, "an ensemble without members"),
        ({"members": [{}]}, "member 1 is a PyTorch file, but no checkpoint"),
        ({"disagreement_weight": None}, "does not say how much disagreement counts: None"),
        ({"disagreement_weight": -1.0}, "does not say how much disagreement counts: -1.0"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, spectrograms, change, message):
    """Each in words that start from the file."""
    ensemble = Ensemble.of(spectrograms)
    path = save_ensemble(ensemble, ensemble.network(), tmp_path / "ensemble.ckpt")
    contents = torch.load(path, weights_only=True)
    contents["heimdall_ensemble"].update(change)
    torch.save(contents, path)
    with pytest.raises(ModelError, match=message) as caught:
        Ensemble.load(path)
    assert "ensemble.ckpt" in str(caught.value)
