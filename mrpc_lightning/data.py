import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy
import torch
from datasets import Dataset, concatenate_datasets
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from mrpc_lightning import demo, origin
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs import hashes, sources
from mrpc_lightning.pairs.batches import WINDOW, EvaluationBatches, TrainingBatches, share_out
from mrpc_lightning.pairs.large import positives
from mrpc_lightning.pairs.loader import make_loader
from mrpc_lightning.pairs.reader import Reader
from mrpc_lightning.pairs.tokens import cache_key, lengths, load_tokenizer, pack, swap, tokenize, unpack
from mrpc_lightning.pairs.values import check_values
from mrpc_lightning.text import count

IN_MEMORY = ["train", "validation", "test", "predict"]  # arguments that hold rows, and no flags
NEEDED: dict[str, tuple[str, ...]] = {"fit": ("train", "validation"), "validate": ("validation",)}


class MRPCDataModule(LightningDataModule):
    """Sentence pairs, tokenized together, in batches that are padded to their longest pair.

    Pairs come from the Hub; or from `data_dir`; or from a user's files. A file that is named for a split goes before
    the other two. Batches are as `ParaphraseClassifier` has them.

    Args:
        model_name: The encoder, or run, whose tokenizer is used. On the command line, from `model.model_name`.
        revision: Branch, tag or commit of the encoder on the Hub. On the command line, from `model.revision`.
        label_names: Names of the negative and of the positive class. On the command line, from `model.label_names`.
        symmetric: Score each pair in both orders of its sentences. On the command line, from `model.symmetric`.
        dataset_name: A data set on the Hub, or "demo" for the embedded corpus.
        dataset_config: The data set's configuration, if it has several.
        data_dir: A folder of MRPC's own files, in Microsoft's or GLUE's layout, or one that `save_to_disk` wrote.
        train_file: A CSV, TSV, JSON lines or Parquet file of training pairs.
        validation_file: The same for validation. Without it a share of `train_file` is held out.
        test_file: The same for `test`.
        predict_file: Pairs to predict, with or without labels. Without it `predict` takes the test split.
        sentence1_column: Column of the first sentence, in files and data sets.
        sentence2_column: Column of the second sentence.
        label_column: Column of the label: 0 and 1, or the class's name.
        skip_bad_rows: Leave out rows with an empty sentence or no label, and count them; otherwise they are refused.
        soft_label_column: Column of the positive class's probability, which training learns in place of the label.
        validation_share: Share of `train_file` to hold out, each class in proportion, without a `validation_file`.
        fold: Such as "3/10": the third tenth of the training pairs is left out and validated on, and `test` scores the
            validation split. Pairs that share a sentence are in one fold.
        split_seed: Seed of that split, and of the folds: the same pairs and seed give the same parts.
        test_split: The split that `test` scores. Unset: "test" if there is a `test_file`, else "validation".
        max_length: Tokens a pair; a longer one is cut, the longer sentence first.
        global_batch_size: Training pairs an optimizer step, over all processes and accumulated batches, which share
            them evenly.
        eval_batch_size: Pairs a batch of a process in validation, test and prediction.
        both_orders: Train on each pair in both orders of its sentences, never in one batch: twice the steps.
        bucketing: Train on batches of pairs of similar length, which saves most of the padding; false shuffles freely.
        padding: Pad each batch to its longest pair, or to `max_length`, so that all are of one width.
        pad_to_multiple_of: Widths of batches are rounded up to this many tokens, for `model.compile`.
        num_workers: Processes that make batches. 0 suffices: pairs are tokenized beforehand.
        train: In code: training rows in memory, which go before any file. A pandas DataFrame, a `datasets.Dataset`, or
            a list of tuples (sentence1, sentence2, label) or of dictionaries.
        validation: The same for validation; without it a share of `train` is held out.
        test: The same for `test`.
        predict: The same for prediction, with or without labels.
    """

    def __init__(
        self,
        model_name: str = "google-bert/bert-base-uncased",
        revision: str | None = None,
        label_names: list[str] = ["not_equivalent", "equivalent"],  # noqa: B006 -- read only; its value is shown by --help
        symmetric: bool = False,
        dataset_name: str = "nyu-mll/glue",
        dataset_config: str | None = "mrpc",
        data_dir: str | None = None,
        train_file: str | None = None,
        validation_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        sentence1_column: str = "sentence1",
        sentence2_column: str = "sentence2",
        label_column: str = "label",
        soft_label_column: str | None = None,
        skip_bad_rows: bool = False,
        validation_share: float = 0.1,
        fold: str | None = None,
        split_seed: int = 42,
        test_split: Literal["train", "validation", "test"] | None = None,
        max_length: int = 128,
        global_batch_size: int = 16,
        eval_batch_size: int = 64,
        both_orders: bool = False,
        bucketing: bool = True,
        padding: Literal["longest", "max_length"] = "longest",
        pad_to_multiple_of: int | None = None,
        num_workers: int = 0,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        predict: Any = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=IN_MEMORY)
        check_values(self.hparams)
        self.reader = Reader(self.hparams, {"train": train, "validation": validation, "test": test, "predict": predict})
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.tokenizer_files: dict[str, torch.Tensor] = {}  # as a checkpoint holds them
        self.pairs: dict[str, Dataset] = {}  # sentences by split
        self.tokens: dict[str, Dataset] = {}  # word pieces by split, row for row
        self.cut: dict[str, int] = {}  # pairs longer than max_length, by split
        self._digests: dict[str, str] = {}  # of the pairs, by split
        self._swapped: dict[str, Dataset] = {}  # word pieces of pairs whose sentences are swapped
        self.ancestors: list[origin.Ancestor] = []  # runs that trained the encoder before, the last one first
        self._kept: dict[str, Any] = {}  # what a checkpoint keeps of the pairs
        self._position: dict[str, int] = {}  # where training is resumed, after a checkpoint was loaded
        self._order_seed = 0

    __init__.__doc__ = __doc__  # help(MRPCDataModule.__init__) would show Lightning's

    @property
    def test_split(self) -> str:
        """The split that `test` scores."""
        values = self.hparams
        return values["test_split"] or ("test" if self.reader.has("test") or values["fold"] else "validation")

    def source(self, split: str) -> str:
        """Return where a split's pairs come from, for people."""
        return self.reader.source(split)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer: a checkpoint's, if it brought one."""
        name, length = self.hparams["model_name"], self.hparams["max_length"]
        if self.tokenizer is None and self.tokenizer_files:
            self.tokenizer = unpack(self.tokenizer_files)
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(demo.resolve(name), self.hparams["revision"], f"model.model_name {name}")
            self.ancestors = origin.ancestors_of(name)
        if length > (most := self.tokenizer.model_max_length):
            what = f"data.max_length {length}{', the default' * (length == 128)}: {name} takes {most} tokens at most"
            raise InputError(f"{what}; set data.max_length {most}{' and model.pretrained false' * (name == demo.NAME)}")
        self.tokenizer_files = self.tokenizer_files or pack(self.tokenizer)
        return self.tokenizer

    def prepare_data(self) -> None:
        """Download, once on each machine, what the Hub has."""
        if self.tokens:
            return
        self.load_tokenizer()
        stage = self.trainer.state.fn.value if self.trainer and self.trainer.state.fn else "fit"
        own = [self.reader.has("train") or self.reader.has(self.reader.name_of(one)) for one in self._splits(stage)]
        if not (self.hparams["data_dir"] or all(own)):
            sources.read_hub(self.hparams["dataset_name"], self.hparams["dataset_config"])

    def setup(self, stage: str) -> None:
        """Read, check and tokenize the splits that a stage ("fit", "validate", "test" or "predict") needs.

        Raises:
            InputError: If there is no such split, or its pairs are not in order.
        """
        if stage == "predict" and self.tokens:
            return  # a Trainer says so even where it was given another split's batches; `predict_dataloader` reads them
        for split in self._splits(stage):
            if split not in self.tokens:
                self.add(split, self.read(split), cache=True)
                if left_out := self.reader.left_out.get(split):
                    rank_zero_warn(f"{self.source(split)}: {count(left_out, 'row')} left out, as skip_bad_rows says")
            if self.hparams["both_orders" if split == "train" and stage == "fit" else "symmetric"]:
                self._swap(split)
            if split == "train" and positives(self.pairs[split]) in (0, len(self.pairs[split])):
                raise InputError(f"{self.source(split)}: every training pair has the same label; both are needed")
            if split == "train" and stage == "fit":
                self._parts()  # fewer pairs than processes do: some come again
        self.reader.forget()
        # Workers fork after the tokenizer's threads have run; it warns of that at each fork, and works.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def add(self, split: str, pairs: Dataset, cache: bool = False) -> None:
        """Tokenize pairs, as `check` returns them, and let them be a split's; `cache` keeps tokens for a later run."""
        self.load_tokenizer()
        self.pairs[split] = pairs
        if cache or split != "predict":
            self._digests[split] = self.reader.digests.get(split) or sources.digest(pairs)
        self.tokens[split], self.cut[split] = self._tokenize(split, pairs, cache)
        self._swapped.pop(split, None)

    def read(self, split: str) -> Dataset:
        """Return a split's pairs, checked, as `pairs.checks.check` gives them.

        Raises:
            InputError: If there is no such split, or its pairs are not in order.
        """
        return self.reader.read(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; after a checkpoint was loaded, those that it had not seen."""
        position: dict[str, Any] = {**self._position, "parts": self._parts()[0]}
        # The seed that the run was given; without one, what the first process drew.
        seed = position.pop("order_seed", torch.initial_seed())
        self._order_seed = self.trainer.strategy.broadcast(seed) if self.trainer is not None else seed
        position |= {"window": WINDOW if self.hparams["bucketing"] else 0, "both_orders": self.hparams["both_orders"]}
        return self._loader("train", TrainingBatches, seed=self._order_seed, **position)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation split's batches, of pairs of nearly the same length."""
        return self._loader("validation", EvaluationBatches)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the batches that `test` scores."""
        return self.scoring_dataloader(self.test_split)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the batches to predict, of the sampler's `own` rows; a process may have a pair more, at last."""
        if self.tokens and "predict" not in self.tokens:
            self.add("predict", self.read("predict"))
            self.reader.forget()
        return self.scoring_dataloader("predict")

    def scoring_dataloader(self, split: str) -> DataLoader[Any]:
        """Return a split's batches, of pairs of nearly the same length; their sampler knows which rows they have."""
        return self._loader(split, EvaluationBatches, overfit=False)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data: the tokenizer, and which batches were trained on."""
        trainer: Any = self.trainer
        epochs = trainer.fit_loop.epoch_progress.current
        batches, parts = trainer.fit_loop.epoch_loop.batch_progress.current, trainer.accumulate_grad_batches
        mid_epoch = batches.processed < trainer.num_training_batches
        position = {"epoch": epochs.started - mid_epoch, "steps_done": batches.processed // parts * mid_epoch}
        position |= {"parts": parts, "order_seed": self._order_seed}
        digests = {split: self._digests[split] for split in NEEDED["fit"] if split in self.pairs}
        self._kept = self._kept or hashes.keep(self.pairs, digests, self.source("train"))
        return {"tokenizer": self.tokenizer_files, "position": position, "ancestors": self.ancestors, **self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume training with the optimizer step after the last one.

        Raises:
            InputError: If the pairs are others by now.
        """
        if "parts" not in state_dict["position"]:
            raise InputError("the checkpoint is of an older version, whose optimizer steps saw other pairs")
        for split in self.other_pairs(state_dict):
            raise InputError(f"{self.source(split)}: not the {split} pairs that the run was started with")
        self._position = dict(state_dict["position"])

    def other_pairs(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Name the splits that are set up and whose pairs are not those of the run whose checkpoint has this state."""
        saved = state_dict["digests"].items()
        return [name for name, digest in saved if name in self.pairs and self._digests[name] != digest]

    def _splits(self, stage: str) -> tuple[str, ...]:
        return NEEDED.get(stage, (self.test_split if stage == "test" else "predict",))

    def _parts(self) -> tuple[int, int]:
        """Return how many batches of a process an optimizer step has, and how many pairs each of them."""
        processes, parts = (self.trainer.world_size, self.trainer.accumulate_grad_batches) if self.trainer else (1, 1)
        return parts, share_out(self.hparams["global_batch_size"], processes, parts)

    def _tokenize(self, split: str, pairs: Dataset, cache: bool, swapped: str = "") -> tuple[Dataset, int]:
        length = self.hparams["max_length"]
        key = cache_key(self.tokenizer_files, self._digests[split] + swapped, length) if cache else None
        return tokenize(self.load_tokenizer(), pairs, length, key)

    def _swap(self, split: str) -> Dataset:
        """Return the tokens of a split's pairs with their sentences swapped."""
        if split not in self._swapped:
            self._swapped[split], _ = self._tokenize(split, swap(self.pairs[split]), split != "predict", " swapped")
        return self._swapped[split]

    def _loader(
        self, split: str, kind: type[TrainingBatches] | type[EvaluationBatches], overfit: bool = True, **options: Any
    ) -> DataLoader[Any]:
        if split not in self.tokens:
            stage = "fit" if split in NEEDED["fit"] else split
            raise InputError(f"no {split} pairs yet: call setup({stage!r}) of the data module first")
        values, trainer, scored = self.hparams, self.trainer, kind is EvaluationBatches
        tokens = self.tokens[split]
        swapped = self._swap(split) if values["symmetric" if scored else "both_orders"] else None
        tokens = tokens if scored or swapped is None else concatenate_datasets([tokens, swapped])
        if trainer is not None:
            options |= {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
        size = values["eval_batch_size" if scored else "global_batch_size"]
        width = values["max_length"] if values["padding"] == "max_length" else None
        in_order = overfit and trainer is not None and getattr(trainer, "overfit_batches", False)  # Lightning's way
        batches = kind(numpy.full(len(tokens), width) if width else lengths(tokens), size, **options)
        return make_loader(
            tokens,
            self.load_tokenizer(),
            (size if scored else self._parts()[1]) if in_order else batches,
            swapped if scored else None,
            width,
            values["pad_to_multiple_of"],
            values["num_workers"],
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
