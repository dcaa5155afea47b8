"""Series from files and back, and what is said of files that are not as they should be."""

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from dynamicblocks.data.series import Columns, SeriesSet, load_series, read_series
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, StorageError
from dynamicblocks.tasks.series_files import write_series

HEAD = "id,time,x\n"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_written_is_read(tmp_path, kind):
    nan = float("nan")
    series = SeriesSet.of(
        [[0.1, 0.2, 1e9 + 0.125], [-1.0, 2.0]],
        [[[1.0, nan], [1 / 3, 2.0], [nan, nan]], [[5.0, 6.0], [nan, 8.0]]],
        labels=["b", "a"],
        features=("x", "a column"),
        ids=("001", 'q"u,o'),
    )
    write_series(tmp_path / f"a.{kind}", series)
    again = read_series(tmp_path / f"a.{kind}", kind, Columns(label="label"))
    for name in ("times", "values", "observed", "lengths", "labels"):
        assert torch.equal(getattr(again, name), getattr(series, name)), name
    assert (again.ids, again.features, again.classes) == (series.ids, series.features, series.classes)


def test_rows_of_a_series_need_not_stand_together_and_text_is_left_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,x,note,id\n0,1,aha,b\n0,2,,a\n1,,so,b\n\n2,5,,a\n")
    found = read_series(path, "csv")
    assert found.ids == ("b", "a")
    assert found.features == ("x",)
    assert found.times.tolist() == [[0, 1], [0, 2]]
    assert found.observed.squeeze(-1).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("2024-01-01", "2024-01-02", 86400),
        ("2024-01-01 10:00:00.5", "2024-01-01 10:00:01", 0.5),
        ("2024-01-01T10:00:00.123456789Z", "2024-01-01T10:00:02.123456789Z", 2),
        ("10:00:30", "10:01:00", 30),
    ],
)
def test_dates_and_times_of_a_day_are_seconds(tmp_path, first, second, apart):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + f"a,{first},1\na,{second},2\n")
    assert read_series(path, "csv").times.diff().tolist() == [[apart]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stamps_of_every_unit_are_rounded_once(tmp_path, unit):
    path = tmp_path / "a.parquet"
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for kind, begin in ((pa.timestamp(unit), 1704103200), (pa.duration(unit), 5)):
        times = pa.array([begin * ticks, (2 * begin + 1) * ticks // 2 + 1], pa.int64()).cast(kind)
        parquet.write_table(pa.table({"id": ["a", "a"], "time": times, "x": [1.0, 2.0]}), path)
        exact = [begin, ((2 * begin + 1) * ticks // 2 + 1) / ticks]  # one division of whole numbers
        assert read_series(path, "parquet").times.tolist() == [exact]


def test_row_numbers_of_pandas_are_no_values_unless_asked_for(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"id": ["a", "a"], "time": [0, 1], "x": [1.0, 2.0], "__index_level_0__": [3, 7]}
    parquet.write_table(pa.table(table), path)
    with pytest.raises(StorageError, match="column number 4 has no name"):
        read_series(path, "parquet")
    assert read_series(path, "parquet", Columns(values=("x",))).features == ("x",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        (HEAD, "no rows"),
        (HEAD + "a,0,1\nb,0,2\n\na,-1,3\n", "lines 2 and 5: series 'a': time -1 comes after 0"),
        (HEAD + "a,0,1\na,0,2\n", "lines 2 and 3: series 'a': time 0 repeats"),
        (HEAD + "a,0,1\na,1,2\nb,0,3", "line 4: series 'b' has one time"),
        (HEAD + "a,0,1\na,1,oops\n", "line 3: column 'x' holds 'oops'"),
        (HEAD + "a,0,1\na,now,1\n", "line 3: column 'time' holds 'now'"),
        ("id,t,x\n1,2,3\n", "no column 'time'; there are 'id', 't', 'x'"),
        ("id;time;x\n1;2;3\n", "separated by commas"),
        ("id,time,x,x\n1,2,3,4\n", "two columns 'x'"),
        (HEAD + "a,0,1\na,1,1\n", "column 'x' is constant"),
        (HEAD + "a,0,\na,1,NaN\n", "all values of column 'x' are missing"),
        (HEAD + "a,0,\na,1,NaN\nb,0,1\nb,1,2\n", "line 2: series 'a': all its values are missing"),
        (HEAD + "a,,1\na,1,2\n", "line 2: column 'time': a time is missing"),
        (HEAD + "a,0,1\na,1,inf\n", "line 3: column 'x' holds inf"),
        (HEAD + '\n"a\nb",0,1\na,1\n', "line 5: expected as many cells as there are names, 3, got 2: 'a,1'"),
        ("id;time;x\n1;2;3,5\n", "line 2: .* 1, got 2: .*decimals by a point"),
        (HEAD + ",0,1\na,1,2\n", "line 2: column 'id' is empty"),
        ("id,time,note\na,0,x\na,1,y\n", "no column of values"),
        ((HEAD + "a,0,\xe4\n").encode("latin1"), "UTF-8"),
        (HEAD.replace("x", "\xe4").encode("latin1") + b"a,0,1\n", "UTF-8"),
        ((HEAD + "a,0,1\n").encode("utf-16"), "UTF-8"),
        ((HEAD + "a,0,1\n").encode("utf-16-le"), "UTF-8"),
        (HEAD.encode() + b"\xe4,0,1\n", "UTF-8"),
        (HEAD.encode() + b"\xff\xe4,0\n", "UTF-8"),
        ("\n\n", "got no line"),
        (HEAD.strip(), "no rows"),
        (HEAD + '"a,0,1\n', "line 2: expected as many cells"),
        (HEAD + "a,1700000001,1\na,1700000000,2\n", "time 1700000000 comes after 1700000001"),
        (HEAD + "a,1700000000000000001,1\na,1700000000000000002,2\n", "000001 and 17.*002 are one in float64"),
        (HEAD + "a,2024-01-01 00:00:00.000000001,1\na,2024-01-01 00:00:00.000000002,2\n", "are one in float64"),
        (HEAD + "a,false,1\na,true,2\n", "column 'time' holds no times, but true and false"),
        ("," + HEAD + "0,a,0,1\n1,a,1,2\n", "column number 1 has no name"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StorageError, match=said) as caught:
        read_series(path, "csv")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_that_is_damaged_or_has_wrong_rows_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 1, 1], "time": [0.0, 2.0, 1.0], "x": [1, 2, 3]}), path)
    with pytest.raises(StorageError, match="rows 2 and 3: series '1': time 1 comes after 2"):
        read_series(path, "parquet")
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"PAR1", whole[:8] + b"\xff" * 60 + whole[68:]):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"a\.parquet"):
            read_series(path, "parquet")


def test_a_file_that_is_none_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(StorageError, match="expected a csv file"):
            read_series(path, "csv")
    with pytest.raises(ConfigurationError, match="must differ"):
        Columns(time="id")
    with pytest.raises(ConfigurationError, match=r"end in \.csv or \.parquet"):
        write_series(tmp_path / "a.txt", load_series("spiral").train)


def test_what_is_only_predicted_from_may_be_constant_or_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,time,x,y\na,0,1,\na,1,1,\n")
    found = read_series(path, "csv", Columns(values=("x", "y")), to_learn=False)
    assert found.observed.tolist() == [[[True, False], [True, False]]]


def test_labels_are_one_a_series(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,time,x,kind\na,0,1,p\na,1,2,q\n")
    with pytest.raises(StorageError, match="lines 2 and 3: series 'a' has two labels in column 'kind', 'p' and 'q'"):
        read_series(path, "csv", Columns(label="kind"))


def rows(number, length):
    return HEAD + "".join(f"{one},{time},{one + time * time}\n" for one in range(number) for time in range(length))


def test_series_are_held_out_or_of_few_series_the_last_times(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(rows(10, 4))
    data = load_series("csv:a.csv", data_dir=str(tmp_path))
    held = [set(part.ids) for part in (data.train, data.validation, data.test)]
    assert [len(each) for each in held] == [7, 1, 2]
    assert len(set.union(*held)) == 10
    path.write_text(rows(1, 11))
    data = load_series(f"csv:{path}", validation=0.2, test=0.2)
    assert data.train.times.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert data.validation.times[data.validation.wanted].tolist() == [7, 8]
    assert data.test.times[data.test.wanted].tolist() == [9, 10]
    assert data.test.times[data.test.seen].tolist() == list(range(9))
    path.write_text(rows(1, 3))
    with pytest.raises(DynamicBlocksError, match="split in time"):
        load_series(f"csv:{path}")
