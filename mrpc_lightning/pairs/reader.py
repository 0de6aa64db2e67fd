from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs import checks, large, sources, splits
from mrpc_lightning.pairs.files import Table, find_files, read_chunks, read_file
from mrpc_lightning.pairs.large import LIMIT
from mrpc_lightning.pairs.sources import PIECE

FOLDED = ("train", "validation")  # the splits that a fold makes out of the training pairs


class Reader:
    """Finds, reads and checks the pairs of each split.

    Args:
        values: The hyper-parameters of `MRPCDataModule`.
        given: Rows in memory by split, which go before any file.

    Attributes:
        left_out: How many rows could not be used, by split.
        digests: The digest of pairs that stay on the disk, by split.
    """

    def __init__(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.values = values
        self.given = {split: rows for split, rows in given.items() if rows is not None}
        self.left_out: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self._tables: dict[str, Table] = {}

    def source(self, split: str) -> str:
        """Return where a split's pairs come from, for people."""
        values, fold, name = self.values, self.values["fold"], self.name_of(split)
        hub_name = " ".join(filter(None, [values["dataset_name"], values["dataset_config"]]))
        everything = "train, in memory" if "train" in self.given else values["train_file"] or values["data_dir"]
        if fold and split in FOLDED:
            return f"{everything or hub_name}, {'without ' * (split == 'train')}fold {fold}"
        if name in self.given:
            return f"{name}, in memory"
        return str(values[f"{name}_file"] or everything or hub_name)

    def name_of(self, split: str) -> str:
        """Return which split of the source is meant; beside a fold, `test` is a second look at the validation split."""
        if split == "predict" and not self.values["predict_file"] and "predict" not in self.given:
            return "test"
        second_look = split == "test" and self.values["fold"] and not self.has("test")
        return "validation" if second_look else split

    def has(self, split: str) -> bool:
        """Say whether a split has a file, or rows in memory, of its own."""
        return bool(split in self.given or self.values[f"{split}_file"])

    def read(self, split: str) -> Dataset:
        """Return a split's pairs, checked, as `checks.check` gives them.

        Raises:
            InputError: If there is no such split, or its pairs are not in order.
        """
        fold, seed = self.values["fold"], self.values["split_seed"]
        if split == "train" and (found := self._read_large()) is not None:
            return found
        if fold and split in FOLDED:
            return splits.leave_out(self._read("train", "train"), fold, seed)[split]
        return self._read(split, self.name_of(split))

    def forget(self) -> None:
        """Free the memory of tables that were read and not asked for."""
        self._tables.clear()

    def check(self, table: Table, labelled: bool = True, soft: bool = False, skip: bool = False) -> tuple[Dataset, int]:
        """Check a table; see `checks.check`."""
        return checks.check(
            table, self.columns if soft else self.columns[:3], self.values["label_names"], labelled, skip
        )

    def chunks(self, size: int) -> Iterator[Table]:
        """Yield the rows to predict, all of their columns, so many at a time; nothing is checked.

        Raises:
            InputError: If there are none, or their file is malformed.
        """
        if self.values["predict_file"] and "predict" not in self.given:
            yield from read_chunks(Path(self.values["predict_file"]), "predict_file", size)
            return
        yield from self._table("predict", self.name_of("predict")).pieces(size)

    @property
    def columns(self) -> list[str]:
        """The names of the columns: both sentences, the label, and the soft label."""
        return [self.values[f"{role}_column"] for role in sources.ROLES]

    def _read_large(self) -> Dataset | None:
        """Return the training pairs from the disk, where there are more than memory should hold; else None.

        Raises:
            InputError: If others are to be parted from them, which takes all of them in memory.
        """
        path, values, source = self.values["train_file"], self.values, self.source("train")
        if "train" in self.given or not (path or self._has_large_table()):
            return None
        files = find_files(Path(path), f"data.train_file {path}") if path else self._tables["train"].files
        if path and not large.is_large(files):
            return None
        if values["fold"]:
            name = path or values["data_dir"] or values["dataset_name"]
            raise InputError(f"data.fold {values['fold']}: {name} is too large for folds ({LIMIT}); give none")
        if not self.has("validation") and "validation" not in self._tables:
            raise InputError(f"{source}: too large to hold pairs out ({LIMIT}); give data.validation_file")
        tables = read_chunks(Path(path), "train_file", PIECE) if path else self._tables["train"].pieces(PIECE)
        names = self.columns if values["soft_label_column"] else self.columns[:3]
        about = [names, values["label_names"], values["skip_bad_rows"], None if path else source]
        found = large.keep(files, about, tables, lambda table: self._check("train", table), source)
        pairs, self.left_out["train"], self.digests["train"] = found
        return pairs

    def _has_large_table(self) -> bool:
        """Say whether the data set on the Hub, or the folder that `save_to_disk` wrote, has many training pairs."""
        if not self._tables:
            self._tables = self._read_all()
        return "train" in self._tables and bool(self._tables["train"].files)

    def _read(self, split: str, name: str) -> Dataset:
        table = self._table(split, name)
        is_held_out = name in FOLDED and "train" in self._tables and "validation" not in self._tables
        if is_held_out and not self.has("validation"):
            if name == "validation" and not self.has("train"):
                rank_zero_warn(f"{self.source(name)} has no validation split: a share of its pairs is held out")
            share, seed = self.values["validation_share"], self.values["split_seed"]
            pairs, self.left_out[name] = self._check(name, table)
            return splits.hold_out(pairs, share, seed, self.source(name))[name]
        pairs, self.left_out[split] = self._check(split, table)
        return pairs

    def _check(self, split: str, table: Table) -> tuple[Dataset, int]:
        labelled, soft = split != "predict", split == "train" and self.values["soft_label_column"] is not None
        return self.check(table, labelled, soft, labelled and self.values["skip_bad_rows"])

    def _table(self, split: str, name: str) -> Table:
        """Return the table of a split; of validation pairs that are held out, that of the training pairs."""
        if name != "train" and (own := self._own_table(name)) is not None:
            return own
        self._tables = self._tables or self._read_all()
        if name == "validation" and name not in self._tables and "train" in self._tables:
            return self._tables["train"]
        if name not in self._tables:
            found = f"no {name} split, only {', '.join(self._tables)}"
            raise InputError(f"{self.source(name)} has {found}: name a file of pairs with data.{split}_file")
        return self._tables[name]

    def _read_all(self) -> dict[str, Table]:
        """Read every split that is where the training pairs are."""
        if (own := self._own_table("train")) is not None:
            return {"train": own}
        if self.values["data_dir"]:
            return sources.read_folder(Path(self.values["data_dir"]))
        return sources.read_hub(self.values["dataset_name"], self.values["dataset_config"])

    def _own_table(self, split: str) -> Table | None:
        """Return the table of a split that has a file, or rows in memory, of its own."""
        if split in self.given:
            return sources.from_memory(self.given[split], f"data.{split}", self.columns)
        path = self.values[f"{split}_file"]
        return read_file(Path(path), f"{split}_file") if path else None
