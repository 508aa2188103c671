"""Tables as other programs write them."""

import contextlib
import csv
import unicodedata

import pytest
import yaml
from heimdall_data.errors import IngestError
from heimdall_data.ingest.table import MAX_CSV_BYTES, read_table
from heimdall_features.names import composed
from hypothesis import assume, given
from hypothesis import strategies as st


def table(folder, content, name="m.csv"):
    """The table in a file with this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x y\n\n2,\n",
        "\ufeffa,b\r\n1,x y\r\n2,\r\n",
        "a;b\n1; x y\n2;\n",
        "A\tb\t\n1\tx y\t\n2\n",
        '"a","b"\n"1","x y"\n"2",""\n',
        "\ufeffsep=;\r\na;b\r\n1;x y\r\n2;\r\n",
        '"sep=|"\na|b\n1|x y\n2|\n',
        "SEP=,,\na,b\n1,x y\n2,\n",
        "sep=\t\na\tb\n1\tx y\n2\t\n",
        "sep = \\t\na\tb\n1\tx y\n2\t\n",
        "a\tb\n1\tx y\n2\t\n".encode("utf-16"),
    ],
)
def test_files_of_spreadsheets_are_read(tmp_path, content):
    """Byte order marks, semicolons, tabs, quotes, empty columns and lines are all common."""
    rows = [row.cells for row in table(tmp_path, content).rows]
    assert rows == [{"a": "1", "b": "x y"}, {"a": "2"}]


cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), max_size=8)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1), st.sampled_from(",;\t"))
def test_cells_of_a_csv_come_back_with_their_lines(tmp_path_factory, rows, delimiter):
    """With any separator, and any text in the cells."""
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("a", "b", "c"), *rows])
    assume(any(map(any, rows)))
    expected = {
        f"{path}, line {number}": {
            name: composed(cell) for name, cell in zip("abc", row, strict=True) if cell
        }
        for number, row in enumerate(rows, 2)
        if any(row)
    }
    assert {row.where: row.cells for row in read_table(path).rows} == expected


@given(st.lists(st.dictionaries(st.sampled_from("abc"), cells.filter(bool)), min_size=1))
def test_texts_of_a_yaml_come_back(tmp_path_factory, recordings):
    """Programs quote the values that need it."""
    path = tmp_path_factory.mktemp("yaml") / "m.yaml"
    path.write_text(yaml.safe_dump({"sessions": [{"recordings": recordings}]}), encoding="utf-8")
    expected = [{name: composed(text) for name, text in row.items()} for row in recordings]
    assert [row.cells for row in read_table(path).rows] == expected


def test_names_are_composed_and_paths_are_not(tmp_path):
    """The first are compared with others, and the second are opened."""
    decomposed = unicodedata.normalize("NFD", "Zürich")
    rows = f"station,file,{decomposed}\n{decomposed},{decomposed}.npy,1\n"
    (row,) = table(tmp_path, rows).rows
    assert row.cells == {"station": "Zürich", "file": f"{decomposed}.npy", "zürich": "1"}


def test_lines_are_counted_as_in_an_editor(tmp_path):
    """A quoted cell may span several lines, and messages must still name the right line."""
    for first in ("", "sep=;"):
        found = table(tmp_path, f'{first}\na;b\n"1\n1";2\n\n3;4\n')
        assert [row.where.rpartition(" ")[2] for row in found.rows] == ["3", "6"]


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("m.csv", b"", "m.csv"),
        ("m.csv", b"\xef\xbb\xbf \n", "m.csv"),
        ("m.csv", b"a,b\n", "m.csv"),
        ("m.csv", b"a,b\n1,Z\xfcrich\n", "line 2: byte 0xfc"),
        ("m.csv", b"a,b\n1,\x00\n", "line 2: byte 0x00"),
        ("m.csv", b'a,b\n1,"2\n', "line 2"),
        ("m.csv", b"a,b,a\n1,2,3\n", "line 1: two columns a"),
        ("m.yaml", b"a: [", "line 1"),
        ("m.yaml", b"- a\n", "`sessions`"),
        ("m.yaml", b"# only a comment\n", "`sessions`"),
        ("m.yaml", b"sessions: []\n", "m.yaml"),
        ("m.yaml", b"[" * 20_000, "m.yaml"),
        ("m.yaml", b"a: 1\n---\nb: 2\n", "line 2"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_line(tmp_path, name, content, value):
    """The file looked right in the user's program."""
    with pytest.raises(IngestError, match=value):
        table(tmp_path, content, name)


def test_a_row_with_a_cell_too_many_is_left_out(tmp_path):
    """A decimal comma moves all cells after it: 45,044 is two."""
    found = table(tmp_path, "a,b\n45,044,x\n1,2\n")
    assert [row.cells for row in found.rows] == [{"a": "1", "b": "2"}]
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'm.csv'}, line 2: 'x'")


def test_a_file_too_large_is_not_read(tmp_path):
    """A recording given as the manifest must not fill the memory."""
    with (tmp_path / "m.csv").open("wb") as file:
        file.truncate(MAX_CSV_BYTES + 1)
    with pytest.raises(IngestError, match=f"{MAX_CSV_BYTES + 1} bytes"):
        read_table(tmp_path / "m.csv")


YAML = """
sessions:
  - source: DCF77
    start: 2026-01-02T03:04:05
    recordings:
      - a.wav
      - {file: b.wav, station: no, notes: }
"""


def test_yaml_values_are_text(tmp_path):
    """`no` is a station in Norway, not false, and a time is for the manifest to read."""
    shared = {"source": "DCF77", "start": "2026-01-02T03:04:05"}
    found = table(tmp_path, YAML, "m.yaml")
    assert [row.cells for row in found.rows] == [
        shared | {"file": "a.wav"},
        shared | {"file": "b.wav", "station": "no"},
    ]
    assert found.rows[1].where == f"{tmp_path / 'm.yaml'}, line 7"


@pytest.mark.parametrize(
    ("session", "value"),
    [
        ("- a", "values"),
        ("- source: x", "`recordings`"),
        ("- {source: x, source: y, recordings: [a]}", "'source'"),
        ("- {source: [x], recordings: [a]}", "'source'"),
        ("- {source: x, recordings: [[a]]}", "values"),
        # YAML can name any Python class, and must not create objects.
        ("- {source: !!python/object/apply:os.mkdir [made], recordings: [a]}", "'source'"),
    ],
)
def test_a_yaml_session_of_another_form_is_a_problem_with_its_line(tmp_path, session, value):
    """All of them are reported at once, with other mistakes."""
    problem = table(tmp_path, f"sessions:\n  {session}\n", "m.yaml").problems[0]
    assert problem.startswith(f"{tmp_path / 'm.yaml'}, line 2: ")
    assert value in problem


@given(st.binary(max_size=200), st.sampled_from(["m.csv", "m.yaml"]))
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, content, name):
    """Nobody should see a traceback after naming the wrong file."""
    with contextlib.suppress(IngestError):
        table(tmp_path_factory.mktemp("any"), content, name)
