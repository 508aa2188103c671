"""Tables as people's programs write them."""

import contextlib
import csv

import pytest
import yaml
from heimdall_data.errors import IngestError
from heimdall_data.ingest.table import MAX_CSV_BYTES, read_table
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
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, content):
    """A mark of byte order, semicolons, tabs, quotes, empty columns and lines are all usual."""
    rows = [row.cells for row in table(tmp_path, content).rows]
    assert rows == [{"a": "1", "b": "x y"}, {"a": "2"}]


cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), max_size=8)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1), st.sampled_from(",;\t"))
def test_what_a_spreadsheet_wrote_comes_back_with_its_lines(tmp_path_factory, rows, delimiter):
    """Whatever the separator is, and whatever stands in the cells."""
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("a", "b", "c"), *rows])
    assume(any(map(any, rows)))
    expected = {
        f"{path}, line {number}": {
            name: cell for name, cell in zip("abc", row, strict=True) if cell
        }
        for number, row in enumerate(rows, 2)
        if any(row)
    }
    assert {row.where: row.cells for row in read_table(path).rows} == expected


@given(st.lists(st.dictionaries(st.sampled_from("abc"), cells.filter(bool)), min_size=1))
def test_yaml_of_texts_comes_back(tmp_path_factory, recordings):
    """Another program's YAML quotes what needs it."""
    path = tmp_path_factory.mktemp("yaml") / "m.yaml"
    path.write_text(yaml.safe_dump({"sessions": [{"recordings": recordings}]}), encoding="utf-8")
    assert [row.cells for row in read_table(path).rows] == recordings


def test_lines_are_counted_as_an_editor_does(tmp_path):
    """A cell in quotes may go on for several lines, and a message must still find the row."""
    found = table(tmp_path, '\na,b\n"1\n1",2\n\n3,4\n')
    assert [row.where.rpartition(" ")[2] for row in found.rows] == ["3", "6"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; give it a line with the names"),
        (b"\xef\xbb\xbf \n", "empty; give it a line with the names"),
        (b"a,b\n", "no row below the names of the columns"),
        (b"a,b\n1,Z\xfcrich\n", 'line 2: byte 0xfc is not UTF-8; .* "CSV UTF-8"'),
        ("a,b\n1,2\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (b"a,b\n1,\x00\n", "line 2: a NUL character"),
        (b'a,b\n1,"2\n', "line 2: .* quotation mark left open"),
        (b"a,b,a\n1,2,3\n", "line 1: two columns a; remove one"),
    ],
)
def test_what_is_no_table_says_why(tmp_path, content, message):
    """And where: the file is the user's own, and was right in their program."""
    with pytest.raises(IngestError, match=message):
        table(tmp_path, content)


def test_a_row_with_a_cell_too_many_is_left_out_and_told(tmp_path):
    """A decimal comma moves all cells after it: 45,044 is two."""
    found = table(tmp_path, "a,b\n45,044,x\n1,2\n")
    assert [row.cells for row in found.rows] == [{"a": "1", "b": "2"}]
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'm.csv'}, line 2: 'x'")


def test_a_file_too_large_is_not_read(tmp_path):
    """A recording in place of the manifest must not fill the memory."""
    with (tmp_path / "m.csv").open("wb") as file:
        file.truncate(MAX_CSV_BYTES + 1)
    with pytest.raises(IngestError, match=r"more than the .* that are read; divide it"):
        read_table(tmp_path / "m.csv")


YAML = """
sessions:
  - source: DCF77
    start: 2026-01-02T03:04:05
    recordings:
      - a.wav
      - {file: b.wav, station: no, notes: }
"""


def test_yaml_is_taken_as_text(tmp_path):
    """`no` is a station in Norway, and a time is what the manifest's reader says it is."""
    shared = {"source": "DCF77", "start": "2026-01-02T03:04:05"}
    found = table(tmp_path, YAML, "m.yaml")
    assert [row.cells for row in found.rows] == [
        shared | {"file": "a.wav"},
        shared | {"file": "b.wav", "station": "no"},
    ]
    assert found.rows[1].where == f"{tmp_path / 'm.yaml'}, line 7"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "line 1: not YAML"),
        ("- a\n", "no list `sessions` at the top"),
        ("# only a comment\n", "no list `sessions` at the top"),
        ("sessions: []\n", "no row below"),
        ("[" * 20_000, "not YAML"),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML"),
    ],
)
def test_what_is_no_list_of_sessions_says_why(tmp_path, content, message):
    """YAML that is right may still be another program's."""
    with pytest.raises(IngestError, match=message):
        table(tmp_path, content, "m.yaml")


@pytest.mark.parametrize(
    ("session", "problem"),
    [
        ("- a", "line 2: not names with values"),
        ("- source: x", "line 2: a session without a list `recordings`"),
        ("- {source: x, source: y, recordings: [a]}", "line 2: 'source' is there twice"),
        ("- {source: [x], recordings: [a]}", "line 2: 'source' is not a single value"),
        ("- {source: x, recordings: [[a]]}", "line 2: not names with values"),
    ],
)
def test_a_session_of_another_shape_is_told_with_its_line(tmp_path, session, problem):
    """All such are told at once, beside what is wrong in the others."""
    found = table(tmp_path, f"sessions:\n  {session}\n", "m.yaml")
    assert problem in found.problems[0]


def test_yaml_makes_no_object(tmp_path):
    """YAML can name any class of Python, and a manifest comes from anyone."""
    evil = "!!python/object/apply:os.mkdir [made]"
    found = table(tmp_path, f"sessions:\n  - {{source: {evil}, recordings: [a]}}\n", "m.yaml")
    assert "not a single value" in found.problems[0]


@given(st.binary(max_size=200), st.sampled_from(["m.csv", "m.yaml"]))
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, content, name):
    """Nobody should see a traceback for having named the wrong file."""
    with contextlib.suppress(IngestError):
        table(tmp_path_factory.mktemp("any"), content, name)
