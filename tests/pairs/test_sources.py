import bz2
import csv
import gzip
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from helpers import HEADER, ROWS, make_rows, write_csv, write_mrpc

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs import checks
from mrpc_lightning.pairs.files import read_chunks, read_file
from mrpc_lightning.pairs.sources import COLUMNS, digest, from_memory, read_folder, read_hub
from mrpc_lightning.pairs.splits import hold_out

NAMES = ["not_equivalent", "equivalent"]


def check(*values: Any, **options: Any) -> Dataset:
    return checks.check(*values, **options)[0]


def sentences(dataset: Dataset) -> list[tuple[str, str, int]]:
    return list(zip(dataset["sentence1"], dataset["sentence2"], dataset["label"], strict=True))


@pytest.mark.filterwarnings("ignore:.*MRPC's training split")
def test_microsofts_layout_is_split_by_glues_ids(tmp_path: Path) -> None:
    tables = read_folder(write_mrpc(tmp_path, microsoft=True, glue=False))
    assert sentences(check(tables["train"], COLUMNS, NAMES, True)) == [
        ('He said " no', "He said no .", 1),
        ("It fell .", "It rose .", 0),
    ]
    assert sentences(check(tables["validation"], COLUMNS, NAMES, True)) == [
        ("It rose .", "It fell .", 0),
        ('" It rose .', '" It rose , he said .', 1),
    ]


@pytest.mark.filterwarnings("ignore:.*MRPC's training split")
def test_microsofts_training_file_goes_before_glues_and_glues_test_file_serves(tmp_path: Path) -> None:
    tables = read_folder(write_mrpc(tmp_path, microsoft=True, glue=True))
    assert [len(tables[split]) for split in ("train", "validation", "test")] == [2, 2, 2]


def test_glues_training_file_is_used_with_one_warning_that_counts_what_is_missing(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"1 pairs; .* 3,668, so 3,667 are missing.*msr_paraphrase_train.txt"
    ) as caught:
        tables = read_folder(write_mrpc(tmp_path, microsoft=False, glue=True))
    assert len(caught) == 1
    assert [len(tables[split]) for split in ("train", "validation", "test")] == [1, 2, 2]


def test_hidden_labels_are_refused_but_can_be_predicted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning):
        table = read_folder(write_mrpc(tmp_path, microsoft=False, glue=True))["test"]
    with pytest.raises(InputError, match="-1, which means hidden"):
        check(table, COLUMNS, NAMES, labelled=True)
    assert len(check(table, COLUMNS, NAMES, labelled=False)) == 2


def test_a_folder_written_by_save_to_disk_is_read_back(tmp_path: Path) -> None:
    rows = [{"sentence1": a, "sentence2": b, "label": y, "idx": 7 + i} for i, (a, b, y) in enumerate(make_rows(5))]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(str(tmp_path / "saved"))
    read = check(read_folder(tmp_path / "saved")["train"], COLUMNS, NAMES, True)
    assert read.to_list() == rows
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "single"))
    assert check(read_folder(tmp_path / "single")["train"], COLUMNS, NAMES, True).to_list() == rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_pairs(tmp_path: Path, ending: str) -> None:
    rows = make_rows(6)
    path = tmp_path / f"pairs.{ending}"
    dataset = Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    {"csv": dataset.to_csv, "jsonl": dataset.to_json, "parquet": dataset.to_parquet}.get(
        ending, lambda p: dataset.to_csv(p, sep="\t")
    )(path)
    assert sentences(check(read_file(path, "train_file"), COLUMNS, NAMES, True)) == rows


def test_a_files_own_idx_is_kept_whatever_its_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("idx,sentence1,sentence2,label\n902,a,b,1\n901,c,d,0\n-1,e,f,1\n")
    assert check(read_file(tmp_path / "a.csv", "train_file"), COLUMNS, NAMES, True)["idx"] == [902, 901, -1]


@pytest.mark.parametrize("idx", ["pair-2", "", "1.5", "9" * 30])
def test_an_idx_that_is_no_whole_number_is_refused_and_not_replaced(tmp_path: Path, idx: str) -> None:
    (tmp_path / "a.csv").write_text(f"idx,sentence1,sentence2,label\n1,a,b,1\n{idx},c,d,0\n")
    with pytest.raises(InputError, match=f"a.csv, line 3: idx '{idx}' is no whole number"):
        check(read_file(tmp_path / "a.csv", "train_file"), COLUMNS, NAMES, True)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_files_fields_are_separated_by_what_separates_its_header(tmp_path: Path, mark: str) -> None:
    rows = [("a, with a comma", f"b{mark} quoted", 1), ('c "said"', "d\nin two lines", 0)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=mark).writerows([COLUMNS, *rows])
    assert sentences(check(read_file(tmp_path / "a.csv", "train_file"), COLUMNS, NAMES, True)) == rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
def test_a_compressed_file_is_read_as_what_it_holds(tmp_path: Path, ending: str, packed: str) -> None:
    rows, plain = make_rows(6), tmp_path / f"pairs.{ending}"
    dataset = Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    {"csv": dataset.to_csv, "jsonl": dataset.to_json}.get(ending, lambda p: dataset.to_csv(p, sep="\t"))(plain)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[packed]
    path = tmp_path / f"pairs.{ending}.{packed}"
    path.write_bytes(pack(plain.read_bytes()))
    assert sentences(check(read_file(path, "train_file"), COLUMNS, NAMES, True)) == rows
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"pairs.{ending}.{packed}: cannot be read \("):
        read_file(path, "train_file")
    path.write_bytes(pack(plain.read_bytes() + b"caf\xe9\n"))
    with pytest.raises(InputError, match=r"line \d+: not UTF-8"):
        read_file(path, "train_file")


@pytest.mark.parametrize("size", [2, 3, 99])
def test_files_that_match_a_pattern_are_one_table(tmp_path: Path, size: int) -> None:
    rows = make_rows(9)
    for number in range(3):
        write_csv(tmp_path / f"part-{number}.csv", rows[3 * number : 3 * number + 3])
    path = tmp_path / "part-*.csv"
    assert sentences(check(read_file(path, "train_file"), COLUMNS, NAMES, True)) == rows
    tables = [*read_chunks(path, "train_file", size)]
    checked = [check(table, COLUMNS, NAMES, True) for table in tables]
    assert [row for pairs in checked for row in sentences(pairs)] == rows
    assert [idx for pairs in checked for idx in pairs["idx"]] == [*range(9)]
    # A row is named by its own file and line.
    write_csv(tmp_path / "part-1.csv", [rows[3], ("a", "", 1)])
    with pytest.raises(InputError, match="^data.train_file .*part-1.csv, line 3: sentence2 is empty"):
        check(read_file(path, "train_file"), COLUMNS, NAMES, True)
    write_csv(tmp_path / "part-2.csv", rows[:1], ("sentence1", "sentence2", "labels"))
    with pytest.raises(InputError, match="part-2.csv: its columns are sentence1, sentence2, labels; .*part-0.csv has"):
        read_file(path, "train_file")


def test_rows_that_cannot_be_used_are_all_named_or_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[Any] = [("a", "b", 1), ("", "d", 0), ("e", " ", 1), ("g", "h", ""), ("i", "j", 0)]
    path = write_csv(tmp_path / "a.csv", rows)
    table = read_file(path, "train_file")
    with pytest.raises(InputError) as caught:
        check(table, COLUMNS, NAMES, True)
    assert str(caught.value) == (
        f"data.train_file {path}, line 3: sentence1 is empty or no text (''); 2 more of 5 rows: line 4, line 5; "
        "data.skip_bad_rows true leaves such rows out"
    )
    pairs, left_out = checks.check(table, COLUMNS, NAMES, True, True)
    assert sentences(pairs) == [rows[0], rows[4]] and pairs["idx"][:] == [0, 4] and left_out == 3
    # A label that is no class is a mistake, and no gap.
    table = read_file(write_csv(path, [*rows, ("k", "l", "maybe")]), "train_file")
    with pytest.raises(InputError, match="line 7: label 'maybe'"):
        checks.check(table, COLUMNS, NAMES, True, True)


ROWS_IN_MEMORY = [("a", "b", 1), ("c", "d", 0)]
IN_MEMORY: dict[str, Any] = {
    "tuples": ROWS_IN_MEMORY,
    "lists": [[*row] for row in ROWS_IN_MEMORY],
    "dictionaries": [dict(zip(COLUMNS, row, strict=True)) for row in ROWS_IN_MEMORY],
    "a DataFrame": pandas.DataFrame(ROWS_IN_MEMORY, columns=COLUMNS, index=[7, 7]),
    "a Dataset": Dataset.from_pandas(pandas.DataFrame(ROWS_IN_MEMORY, columns=COLUMNS)),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_rows_in_memory_are_pairs_as_those_of_a_file_are(kind: str) -> None:
    table = from_memory(IN_MEMORY[kind], "data.train", COLUMNS)
    assert sentences(check(table, COLUMNS, NAMES, True)) == ROWS_IN_MEMORY


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "data.train: a list of nothing; give a DataFrame"),
        ("text", "data.train: a str; give a DataFrame"),
        ([("a", "b", 1), ("c", "d")], "data.train, row 2: is not like the first row"),
        ([{"sentence1": "a"}, {"sentence2": "b"}], "data.train, row 2: is not like the first row"),
        ([("a", "b", 1, 2)], "data.train, row 1: 4 values"),
        (["ab", "cd"], "data.train, row 1: is not like the first row, or no pair"),
    ],
)
def test_rows_in_memory_that_are_no_pairs_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_memory(rows, "data.train", COLUMNS)


def test_a_gap_in_a_data_frame_is_named_by_its_index() -> None:
    frame = pandas.DataFrame({"sentence1": ["a", None], "sentence2": ["b", "d"], "label": [1.0, float("nan")]})
    table = from_memory(frame, "data.train", COLUMNS)
    with pytest.raises(InputError, match=r"^data.train, index 1: sentence1 is empty or no text \((nan|None)\)"):
        check(table, COLUMNS, NAMES, True)
    assert checks.check(table, COLUMNS, NAMES, True, True)[1] == 1
    frame["sentence1"] = "a"
    with pytest.raises(InputError, match="^data.train, index 1: the label is missing"):
        check(from_memory(frame, "data.train", COLUMNS), COLUMNS, NAMES, True)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_field_may_be_of_any_length(tmp_path: Path, ending: str) -> None:
    mark, long = {"csv": ",", "tsv": "\t"}[ending], "rents " * 50_000
    (tmp_path / f"a.{ending}").write_text(f"sentence1{mark}sentence2\n{long}{mark}b\n")
    assert check(read_file(tmp_path / f"a.{ending}", "predict_file"), COLUMNS, NAMES, False)["sentence1"] == [long]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_is_read_in_chunks_whose_rows_keep_their_lines_and_numbers(tmp_path: Path, ending: str) -> None:
    rows = make_rows(10)
    dataset = Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    path = tmp_path / f"a.{ending}"
    {"csv": dataset.to_csv, "jsonl": dataset.to_json, "parquet": dataset.to_parquet}[ending](path)
    for size, sizes in ((4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (99, [10])):
        tables = [*read_chunks(path, "predict_file", size)]
        assert [len(table) for table in tables] == sizes
        checked = [check(table, COLUMNS, NAMES, True) for table in tables]
        assert [row for table in checked for row in sentences(table)] == rows
        assert [idx for table in checked for idx in table["idx"]] == [*range(10)]
        where = tables[-1].where(sizes[-1] - 1)
        assert where.endswith({"csv": "line 11", "jsonl": "line 10", "parquet": "row 10"}[ending])


def test_quoted_commas_and_line_breaks_in_a_csv_are_text(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "pairs.csv", [('He said "no", twice', "Two\nlines", 1)])
    assert sentences(check(read_file(path, "train_file"), COLUMNS, NAMES, True)) == [
        ('He said "no", twice', "Two\nlines", 1)
    ]


@pytest.mark.parametrize("values", [(0, 1), ("0.0", "1.0"), ("False", "True"), ("different", "same")])
def test_labels_are_numbers_or_the_classes_names(tmp_path: Path, values: tuple[object, object]) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"sentence1,sentence2,label\na,b,{values[1]}\na,c,{values[0]}\n")
    assert check(read_file(path, "train_file"), COLUMNS, ["different", "same"], True)["label"] == [1, 0]


@pytest.mark.parametrize("names", [["1", "0"], ["yes", "0"], ["1", "no"], ["1.0", "0.0"], ["True", "False"]])
@pytest.mark.parametrize("spellings", [("0", "1"), ("0.0", "1.0"), ("0.000", "1."), ("False", "True")])
def test_a_number_means_one_class_however_it_is_spelled(
    tmp_path: Path, names: list[str], spellings: tuple[str, str]
) -> None:
    (tmp_path / "a.csv").write_text("sentence1,sentence2,label\n" + "".join(f"a,b,{one}\n" for one in spellings))
    if {"yes", "no"} & {*names}:  # a number is a class's name: the other one is none
        with pytest.raises(InputError, match="neither 0, 1 nor one of|is a score"):
            check(read_file(tmp_path / "a.csv", "train_file"), COLUMNS, names, True)
    else:
        assert check(read_file(tmp_path / "a.csv", "train_file"), COLUMNS, names, True)["label"] == [1, 0]


def write_parquet(path: Path, names: list[str]) -> None:
    features = Features(sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=names))
    Dataset.from_dict({"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": [1, 0]}, features).to_parquet(path)


@pytest.mark.parametrize("size", [1, 99])
def test_the_class_names_of_a_parquet_file_are_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, NAMES[::-1])
    table = next(read_chunks(path, "train_file", size))
    with pytest.raises(InputError, match="its labels are 'equivalent' and 'not_equivalent', not .*model.label_names"):
        check(table, COLUMNS, NAMES, True)
    assert check(table, COLUMNS, NAMES[::-1], True)["label"][0] == 1
    write_parquet(path, ["1", "0"])  # the file's own numbers count, not the names
    assert check(read_file(path, "train_file"), COLUMNS, ["1", "0"], True)["label"] == [1, 0]


def test_pairs_that_come_twice_are_held_out_or_trained_on_together() -> None:
    once = [(f"Sentence {n} of the first kind", f"Its fellow {n}", n % 2) for n in range(40)]
    again = [(f" {b.upper()}", a.replace(" ", "  "), y) if n % 3 else (a, b, y) for n, (a, b, y) in enumerate(once)]
    features = Features(sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=NAMES))
    columns = map(list, zip(*once, *again, strict=True))
    splits = hold_out(Dataset.from_dict(dict(zip(COLUMNS, columns, strict=True)), features), 0.25, 42, "x")
    keys = {
        s: {frozenset((" ".join(t.lower().split())) for t in row[:2]) for row in sentences(d)}
        for s, d in splits.items()
    }
    assert not keys["train"] & keys["validation"]
    assert Counter(splits["validation"]["label"]) == {0: 10, 1: 10} and len(splits["train"]) == 60


@pytest.mark.parametrize("seed", [1, 2])
def test_pairs_that_come_once_are_held_out_as_datasets_does_it(seed: int) -> None:
    features = Features(sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=NAMES))
    rows = [(f"{a} {n}", b, y) for n, (a, b, y) in enumerate(make_rows(60))]
    pairs = Dataset.from_dict(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)), features)
    expected = pairs.train_test_split(0.1, stratify_by_column="label", seed=seed)
    found = hold_out(pairs, 0.1, seed, "x")
    assert found["train"].to_dict() == expected["train"].to_dict()
    assert found["validation"].to_dict() == expected["test"].to_dict()


@pytest.mark.parametrize("name", ["pandas", "csv", "text", "./folder", "/folder", "../x", "a/b/c", "a/.."])
def test_no_name_but_a_data_set_of_an_owner_on_the_hub_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("it was looked up"))
    with pytest.raises(InputError, match="^data.dataset_name .*: give its owner as well, as in nyu-mll/glue"):
        read_hub(name, None)


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "pairs.csv", make_rows(3), header=("question1", "question2", "is_duplicate"))
    read = check(read_file(path, "train_file"), ("question1", "question2", "is_duplicate"), NAMES, True)
    assert sentences(read) == make_rows(3)


GOOD = "sentence1,sentence2,label\na,b,1\n"
BAD_FILES = {
    "empty": ("a.csv", b"", "a.csv: the file is empty"),
    "only a header": ("a.csv", b"sentence1,sentence2,label\n", "a.csv: no pairs in it"),
    "missing column": (
        "a.csv",
        b"premise,sentence2,label\na,b,1\n",
        "no column 'sentence1'; it has premise, .*sentence1_column",
    ),
    "other columns": (
        "a.csv",
        b"question1,question2,label\na,b,1\n",
        "no column 'sentence1', 'sentence2'; it has question1, .*"
        "Say which one it is with data.sentence1_column and data.sentence2_column$",
    ),
    "missing label": ("a.csv", b"sentence1,sentence2\na,b\n", "no column 'label'.*data.label_column"),
    "too many fields": ("a.csv", (GOOD + "a,b,c,1\n").encode(), "a.csv, line 3: 4 fields, but the header names 3"),
    "too few fields": ("a.tsv", b"sentence1\tsentence2\tlabel\na\tb\n", "a.tsv, line 2: 2 fields"),
    "open quote": ("a.csv", (GOOD + '"a,b,1\nc,d,0\n').encode(), "a.csv, line 4: .*is a quote mark left open"),
    "no class": ("a.csv", (GOOD + "a,b,2\n").encode(), "a.csv, line 3: label '2' is neither 0, 1 nor one of"),
    "other names": (
        "a.csv",
        b"sentence1,sentence2,label\na,b,yes\na,c,no\n",
        r"line 2: label 'yes'.*'no' and 'yes'.*model.label_names '\[\"no\", \"yes\"\]'",
    ),
    "empty sentence": ("a.csv", (GOOD + "a, ,1\n").encode(), "a.csv, line 3: sentence2 is empty"),
    "not UTF-8": ("a.csv", (GOOD + "caf\xe9,b,1\n").encode("latin-1"), "a.csv, line 3: not UTF-8"),
    "not JSON": ("a.jsonl", b'{"sentence1": "a", "sentence2": "b", "label": 1}\n{oops\n', "a.jsonl, line 2: not JSON"),
    "a JSON list": ("a.jsonl", b"[1, 2]\n", "a.jsonl, line 1: not a JSON object"),
    "uneven JSON": ("a.jsonl", b'{"sentence1": "a", "sentence2": "b"}\n{"sentence1": "a"}\n', "line 2: .*sentence2"),
    "not Parquet": ("a.parquet", b"PAR0", "a.parquet: not a Parquet file"),
    "unknown ending": ("a.xlsx", b"PK", "a.xlsx: unknown kind of file; use .csv"),
    "column twice": (
        "a.csv",
        b"sentence1,sentence2,label,label\na,b,0,1\n",
        "a.csv, line 1: two columns are called 'label'",
    ),
    "scores": (
        "a.csv",
        (GOOD + "a,b,5.000\n").encode(),
        "line 3: label '5.000' is a score, not a class: cut it at a thr",
    ),
    "three classes": ("a.csv", (GOOD + "a,b,maybe\na,b,no\n").encode(), "line 3: .*; there can be two classes only"),
    "no label": ("a.csv", (GOOD + "a,b,\n").encode(), "a.csv, line 3: the label is missing"),
    "commas in a TSV": (
        "a.tsv",
        b"sentence1,sentence2\na,b\n",
        "line 1: its fields are separated by commas; save it",
    ),
    "no file of a pattern": ("nope/*.csv", None, r"nope/\*.csv: no such file"),
    "an unknown compression": ("a.csv.zst", b"x", "unknown kind of file; .*zst needs: python -m pip install zstandard"),
    "a folder": (".", None, "is a folder, not a file"),
    "missing file": ("nope/a.csv", None, "a.csv: no such file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_line_and_the_remedy(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        check(read_file(tmp_path / name, "train_file"), COLUMNS, NAMES, True)
    assert str(caught.value).startswith("data.train_file") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "1.01", "-0.1", "likely", "nan"])
def test_a_soft_label_is_a_probability(tmp_path: Path, value: str) -> None:
    header = ("sentence1", "sentence2", "label", "teacher")
    rows: list[Any] = [("a", "b", 1, "0.25"), ("c", "d", 0, 1), ("e", "f", 1, value)]
    columns = [*COLUMNS, "teacher"]
    path = write_csv(tmp_path / "a.csv", rows, header)
    with pytest.raises(InputError, match=rf"a.csv, line 4: teacher '{value}' is no probability, a number from 0 to 1"):
        check(read_file(path, "train_file"), columns, NAMES, True)
    pairs = check(read_file(write_csv(path, rows[:2], header), "train_file"), columns, NAMES, True)
    assert pairs["soft_label"][:] == [0.25, 1.0] and pairs["label"][:] == [1, 0]
    others = check(
        read_file(write_csv(path, [(*rows[0][:3], "0.26"), rows[1]], header), "train_file"), columns, NAMES, True
    )
    assert digest(pairs) != digest(others) and digest(pairs) != digest(pairs.remove_columns("soft_label"))
    with pytest.raises(InputError, match="no column 'teacher'; .*Say which one it is with data.soft_label_column"):
        check(read_file(write_csv(path, make_rows(3)), "train_file"), columns, NAMES, True)


def test_a_folder_without_mrpc_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither Microsoft's msr_paraphrase_train.txt"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_folder(tmp_path / "nope")
    (tmp_path / "msr_paraphrase_train.txt").write_text(HEADER + ROWS[0], encoding="utf-8")
    with pytest.raises(InputError, match="needs GLUE's dev_ids.tsv"):
        read_folder(tmp_path)
