"""One file for spectrograms and times: nothing of either is lost, and a bad file is refused."""

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, ModelError, Region
from heimdall_models.checkpoint import described
from heimdall_models.timing.network import TimingNet, region_prior
from heimdall_models.trained import load_timing, save_with_timing, timing_sites
from timing_cases import REGION, SITES, arrivals, positions_deg

CONFIG = LocalizationConfig(backbone="test_convnext", n_receivers=len(SITES))


@pytest.fixture
def spectrograms(tmp_path):
    """A checkpoint as Lightning writes it, less what only resuming needs."""
    n = len(SITES)
    module = LocalizationModule(CONFIG, REGION, [[[0.0]]] * n, [[[1.0]]] * n)
    contents = {"state_dict": module.state_dict(), "heimdall_models": described(CONFIG, REGION)}
    torch.save(contents, path := tmp_path / "mel.ckpt")
    return path


@pytest.fixture
def timing():
    """A network that has learned something."""
    network = TimingNet(REGION, SITES).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for values in network.parameters():
            values += 0.1 * torch.randn(values.shape, generator=generator)
        network.log_temperature.fill_(0.3)
        network.unexplained_limit.fill_(4.0)
    return network


def test_what_comes_back_says_the_same(tmp_path, spectrograms, timing):
    """Calibration included: it is most of what makes an ellipse honest."""
    path = save_with_timing(spectrograms, timing, SITES, tmp_path / "both.ckpt")
    found = load_timing(path, REGION)
    rows = torch.from_numpy(arrivals(positions_deg(5)))
    with torch.inference_mode():
        one, two = (network(rows, region_prior(5)) for network in (timing, found))
    assert torch.equal(one.position, two.position)
    assert torch.equal(one.covariance, two.covariance)
    assert not found.training
    assert timing_sites(path) == SITES


def test_the_network_of_spectrograms_still_loads_from_the_whole_file(
    tmp_path, spectrograms, timing
):
    """One file is handed on, not two that may be mixed up."""
    path = save_with_timing(spectrograms, timing, SITES, tmp_path / "both.ckpt")
    alone, beside = LocalizationModule.load(spectrograms), LocalizationModule.load(path)
    assert alone.config == beside.config
    for name, values in alone.state_dict().items():
        assert torch.equal(values, beside.state_dict()[name])


def test_a_checkpoint_of_spectrograms_alone_has_no_timing(spectrograms):
    """Which is how one tells the two."""
    assert load_timing(spectrograms, REGION) is None
    assert timing_sites(spectrograms) is None


def test_a_file_may_be_written_over_itself_and_leaves_nothing_beside_it(
    tmp_path, spectrograms, timing
):
    """A run that is repeated must not fill a disk, nor leave half a file."""
    save_with_timing(spectrograms, timing, SITES, spectrograms)
    assert timing_sites(spectrograms) == SITES
    assert [path.name for path in tmp_path.iterdir()] == ["mel.ckpt"]


def test_nothing_is_left_where_nothing_can_be_written(tmp_path, spectrograms, timing):
    """A full disk must not look like a checkpoint."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_with_timing(spectrograms, timing, SITES, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mel.ckpt", "taken"]


def test_no_stranger_becomes_half_of_ours(tmp_path, timing):
    """A file of other tensors has no region, no normalisation, no meaning."""
    torch.save({"weights": torch.zeros(3)}, path := tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match="no checkpoint of a Heimdall model"):
        save_with_timing(path, timing, SITES, tmp_path / "both.ckpt")
    assert not (tmp_path / "both.ckpt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "timing format 9; this version reads 1"),
        ({"sites": "[{}]"}, "does not say where its receivers are"),
        ({"sites": "no json"}, "does not say where its receivers are"),
        ({"state": {}}, "holds no weights of a timing network"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, spectrograms, timing, change, message):
    """Each in words that start from the file."""
    path = save_with_timing(spectrograms, timing, SITES, tmp_path / "both.ckpt")
    contents = torch.load(path, weights_only=True)
    contents["heimdall_timing"].update(change)
    torch.save(contents, path)
    with pytest.raises(ModelError, match=message) as caught:
        load_timing(path, REGION)
    assert "both.ckpt" in str(caught.value)


def test_receivers_too_far_from_a_region_are_refused(tmp_path, spectrograms, timing):
    """The region is the file's own; another one would move every receiver."""
    path = save_with_timing(spectrograms, timing, SITES, tmp_path / "both.ckpt")
    with pytest.raises(ModelError):
        load_timing(path, Region(-30.0, 150.0, 92_000.0))


def test_a_timing_network_of_another_region_is_refused(tmp_path, spectrograms, timing):
    """In the other's plane its answers would be kilometres off, and as sure as ever."""
    other = Region(45.3, 8.6, 60_000.0)
    with pytest.raises(ModelError, match="train both in one region"):
        save_with_timing(spectrograms, TimingNet(other, SITES), SITES, tmp_path / "both.ckpt")
    assert not (tmp_path / "both.ckpt").exists()
    path = save_with_timing(spectrograms, timing, SITES, tmp_path / "both.ckpt")
    with pytest.raises(ModelError, match=r"both.ckpt names other places .* than Region"):
        load_timing(path, other)


def test_receivers_in_another_order_than_the_network_s_are_refused(tmp_path, spectrograms, timing):
    """Whoever feeds the model goes by the names in the file."""
    path = save_with_timing(spectrograms, timing, SITES[::-1], tmp_path / "both.ckpt")
    with pytest.raises(ModelError, match="another order"):
        load_timing(path, REGION)
