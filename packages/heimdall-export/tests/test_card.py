"""The card of a model file: what a stranger needs to know, and nothing that a name smuggles in."""

import json
import shutil

import onnx
import pytest
from heimdall_export import ExportError, write_card
from heimdall_features.names import composed, shown
from heimdall_features.testing import hostile_names
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt


@pytest.fixture
def model(onnx_path, tmp_path):
    """A model file of this test's own."""
    return shutil.copy(onnx_path, tmp_path / "model.onnx")


def cells_of(text):
    """The text of every cell of a card's tables, and every kind of element in the card."""
    markdown = MarkdownIt("commonmark", {"linkify": True}).enable(["table", "linkify"])
    tokens = markdown.parse(text)
    inside = [token for token in tokens if token.type == "inline"]
    kinds = {token.type for token in tokens} | {
        child.type for token in inside for child in token.children
    }
    at = [k for k, token in enumerate(tokens) if token.type in ("td_open", "th_open")]
    return ["".join(child.content for child in tokens[k + 1].children) for k in at], kinds


def test_a_card_tells_receivers_region_data_figures_limits_and_how_to_load(model):
    """A file that was sent around is judged by what is written beside it."""
    metrics = {"val/error_m_median": 812.4, "test/error_m_median": 1234.5, "test/nll": float("nan")}
    card = write_card(model, metrics=metrics, data={"sessions": 480})
    assert card.name == "model.md"
    text = card.read_text()
    cells, kinds = cells_of(text)
    for told in (
        "Torino",
        "Genova",
        "Milano-Baggio",
        "45.1",
        "480",
        "0123abcd",
        "float32",
        "latitude of the centre",
    ):
        assert told in cells
    row = cells.index("median error, m")
    assert cells[row : row + 3] == ["median error, m", "812.4", "1234"]
    assert cells[cells.index("negative log-likelihood, nats") :][:3][2] == "not known"
    assert "## Limits" in text
    assert 'Predictor("model.onnx")' in text
    assert "fence" in kinds


@pytest.fixture(scope="module")
def plain(onnx_path, tmp_path_factory):
    """Cells and elements of the card of a model whose names hold no markup."""
    model = shutil.copy(onnx_path, tmp_path_factory.mktemp("plain") / "model.onnx")
    return cells_of(write_card(model).read_text(encoding="utf-8"))


@settings(max_examples=50)
@given(names=st.lists(hostile_names() | st.text(), min_size=3, max_size=3))
@example(names=["<script>alert(1)</script>", "a | b\n| c", "[x](javascript:0) `y` **z** www.a.b"])
@example(names=["evil.com/x?y", "//1.2.3.4/x", "xn--p1ai.xn--p1ai"])
def test_no_name_becomes_markup(onnx_path, metadata, plain, tmp_path_factory, names):
    """Names are given by strangers, and cards are read in browsers."""
    model, path = onnx.load(onnx_path), tmp_path_factory.mktemp("card") / "model.onnx"
    receivers = [{"name": name, "latitude": 45.0, "longitude": 8.0} for name in names]
    told = {**metadata, "heimdall.receivers": json.dumps(receivers)}
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)
    cells, kinds = cells_of(write_card(path).read_text(encoding="utf-8"))
    assert (len(cells), kinds) == (len(plain[0]), plain[1])
    at = cells.index("channel")
    found = [cells[at + 5 * row + 1] for row in (1, 2, 3)]
    assert found == [shown(composed(name)).strip(" ") for name in names]


def test_a_file_that_is_no_model_has_no_card(tmp_path):
    """The caller named the wrong file."""
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"m\.onnx is not an ONNX file"):
        write_card(tmp_path / "m.onnx")
    assert not (tmp_path / "m.md").exists()
