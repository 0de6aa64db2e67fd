import inspect
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from mrpc_lightning import __version__, results, runs
from mrpc_lightning.callbacks import (
    PredictionWriter,
    RunRecorder,
    SaveConfig,
    last_checkpoint,
    log_hyperparameters,
    run_dir,
)
from mrpc_lightning.data import MRPCDataModule, load_tokenizer
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.parser import Parser, check_config_files, raise_usage, split_config_files
from mrpc_lightning.settings import (
    CHECKPOINT_DEFAULTS,
    EARLY_STOPPING_DEFAULTS,
    LOGS,
    TRAINER_DEFAULTS,
    check_settings,
    choose_precision,
    logs_folder,
)

LINKED = ("model_name", "revision", "label_names")


class CLI(LightningCLI):
    """LightningCLI that says what came of a run, and that evaluates what was trained, never a random head."""

    checkpoint: Path | None = None
    trainer: Any  # Lightning gives it attributes that a type checker does not see

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two callbacks that every run has, and let the data follow the model's choices."""
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "model_checkpoint")
        parser.set_defaults({f"early_stopping.{name}": value for name, value in EARLY_STOPPING_DEFAULTS.items()})
        parser.set_defaults({f"model_checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        for name in LINKED:  # this way round, so that a checkpoint's encoder decides on the tokenizer
            parser.link_arguments(f"model.{name}", f"data.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line. Where a checkpoint is used, its values stand between config files and flags."""
        words = sys.argv[1:] if args is None else args
        assert isinstance(words, list)
        check_config_files(split_config_files(words)[0])
        self.config = parser.parse_args(words)
        subcommand = self.config["subcommand"]
        if subcommand not in words:
            raise InputError(f"say what to do on the command line, not in a config file: {subcommand}")
        config = self.config[subcommand]
        check_settings(config)
        untrained = subcommand == "fit" or config.trainer.fast_dev_run
        if untrained and not config.ckpt_path:
            return
        self.checkpoint = runs.find_checkpoint(config.ckpt_path or "best", logs_folder(config))
        content = runs.read_checkpoint(self.checkpoint)
        saved, epochs, max_epochs = checkpoint_values(content), content["epoch"] + 1, config.trainer.max_epochs
        if subcommand == "fit" and max_epochs is not None and 0 <= max_epochs <= epochs:
            raise InputError(f"{self.checkpoint}: has trained for {epochs} epochs; raise --trainer.max_epochs to go on")
        position = words.index(subcommand) + 1
        files, flags = split_config_files(words[position:])
        values = ["--config", json.dumps(saved)]
        self.config = parser.parse_args([*words[:position], *files, *values, *flags])
        for key, value in saved["model"].items():
            if self.config[subcommand]["model"][key] != value:
                raise InputError(f"--model.{key}: {self.checkpoint} was trained with {value!r}; leave the flag out")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning's own would set a checkpoint's values over the command line's flags."""

    def before_instantiate_classes(self) -> None:
        """Give `fit` a folder for the run, and keep all else from starting one."""
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            config.trainer.logger = False
            config.verbose = False
        elif config.trainer.logger is False and config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(runs.next_folder(Path(LOGS) / "unlogged"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, with what depends on the machine: it is not written into config.yaml."""
        config = self.config_init[self.subcommand].trainer
        if config.precision is None and not config.plugins:
            kwargs["precision"] = choose_precision(config.accelerator)
        callbacks = (
            config.callbacks if isinstance(config.callbacks, list) else [config.callbacks] * bool(config.callbacks)
        )
        # Lightning's default bar, rich, breaks its figures over several lines in a terminal of 80 columns.
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks = [*callbacks, TQDMProgressBar()]
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        if config.fast_dev_run:  # Lightning writes a last.ckpt even so
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]  # Lightning sets it
        return trainer

    def instantiate_classes(self) -> None:
        """Make model, data and Trainer; the model with its weights, where there is a checkpoint.

        Raises:
            InputError: If the Trainer or a callback does not take a value.
        """
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError, TypeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a --trainer or callback value does not do: {' '.join(str(error).split())}") from error
        if self.checkpoint is None:
            return
        config = self.config_init[self.subcommand]
        self.model = ParaphraseClassifier.load_from_checkpoint(
            self.checkpoint, map_location="cpu", weights_only=True, **self.config[self.subcommand].model.as_dict()
        )
        self._check_length()
        config.ckpt_path = str(self.checkpoint) if self.subcommand == "fit" else None
        tokenizer = runs.run_folder(self.checkpoint) / "tokenizer"
        if tokenizer.is_dir():
            self.datamodule.tokenizer = load_tokenizer(str(tokenizer), None, f"--ckpt_path {self.checkpoint}")

    def before_fit(self) -> None:
        """Read data and encoder before the run's folder is made: bad input leaves nothing behind."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        self.model.setup("fit")
        self._check_length()

    def _check_length(self) -> None:
        positions = getattr(self.model.model.config, "max_position_embeddings", None)
        length = self.datamodule.hparams["max_length"]
        if isinstance(positions, int) and length > positions:
            raise InputError(f"--data.max_length {length}: the encoder takes {positions} tokens at most")

    def after_fit(self) -> None:
        """Score the best checkpoint on the validation split, and close with a table."""
        if self._only_a_trial():
            return
        best = self._get(self.config_init, "model_checkpoint").best_model_path
        folder = run_dir(self.trainer)
        if not best:
            self._say(f"\nnot scored: training ended before a validation\n\nrun    {folder}")
            return
        self.trainer.limit_test_batches = 1.0  # the final figures are of the whole split
        self.trainer.test(
            self.model, self.datamodule.val_dataloader(), ckpt_path=best, verbose=False, weights_only=True
        )
        recorder = next(callback for callback in self.trainer.callbacks if isinstance(callback, RunRecorder))
        saved = runs.read_checkpoint(Path(best))
        epoch, pairs_per_second = saved["epoch"] + 1, recorder.trained_pairs / (recorder.training_seconds or 1)
        figures = self._report(
            "test",
            f"best checkpoint (epoch {epoch})",
            folder / "metrics.json",
            split="validation",
            source=self.datamodule.source("validation"),
            checkpoint=os.path.relpath(best, folder),
            epoch=epoch,
            optimizer_step=saved["global_step"],
            epochs_trained=self.trainer.current_epoch,
            seed=self.config[self.subcommand].seed_everything,
            precision=str(self.trainer.precision),
            wall_seconds=round(recorder.wall_seconds, 1),
            training_pairs_per_second=round(pairs_per_second, 1),
        )
        log_hyperparameters(self.trainer, self.model, self.config[self.subcommand], figures)
        has_curves = any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers)
        curves = f"tensorboard --logdir {folder}\n       " if has_curves else ""
        stopped = self.trainer.current_epoch < (self.trainer.max_epochs or 0) and self.trainer.should_stop
        self._say(
            f"{results.duration(recorder.wall_seconds)} for {results.count(self.trainer.current_epoch, 'epoch')}"
            f"{', stopped early' * stopped}; "
            f"{pairs_per_second:.0f} pairs/s while training\n\n"
            f"run    {folder}\n"
            f"next   {curves}python -m mrpc_lightning predict --ckpt_path {folder} --data.predict_file new_pairs.csv"
        )

    def after_validate(self) -> None:
        """Close with a table."""
        self._report_checkpoint("val", "validation")

    def after_test(self) -> None:
        """Close with a table."""
        self._report_checkpoint("test", self.datamodule.test_split)

    def before_predict(self) -> None:
        """Have the predictions written into the run's folder."""
        if self.checkpoint is not None and not self.trainer.fast_dev_run:
            path = runs.run_folder(self.checkpoint) / "predictions.csv"
            self.trainer.callbacks.append(PredictionWriter(path))

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self._only_a_trial() or self.checkpoint is None:
            return
        path = runs.run_folder(self.checkpoint) / "predictions.csv"
        self._say(f"\n{len(self.datamodule.pairs['predict']):,} pairs predicted with {self.checkpoint}: {path}")

    def _report_checkpoint(self, stage: str, split: str) -> None:
        if self._only_a_trial() or self.checkpoint is None:
            return
        source, scored = self.datamodule.source(split), len(self.datamodule.pairs[split])
        self._say(f"\n{split} split of {source}, {scored:,} pairs, with {self.checkpoint}")
        path = runs.run_folder(self.checkpoint) / f"{self.subcommand}_metrics.json"
        self._report(stage, "this checkpoint", path, split=split, source=source, checkpoint=str(self.checkpoint))
        self._say(f"also in {path}")

    def _report(self, stage: str, title: str, path: Path, **about: Any) -> dict[str, float | int]:
        figures = results.collect(self.trainer.callback_metrics, stage)
        if self.trainer.is_global_zero:
            results.write(path, {**figures, **about})
        self._say("\n" + results.table(figures, title, self.model.hparams["label_names"][1]))
        return figures

    def _only_a_trial(self) -> bool:
        if self.trainer.fast_dev_run:
            self._say(
                "\nfast_dev_run: everything ran on a batch or so; nothing was saved, and no figure means anything"
            )
        return bool(self.trainer.fast_dev_run)

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            print(text, flush=True)


def checkpoint_values(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Take the hyper-parameters of model and data out of a checkpoint, those that still exist."""
    values = {}
    for key, section, owner, skipped in (
        ("model", "hyper_parameters", ParaphraseClassifier, ()),
        ("data", "datamodule_hyper_parameters", MRPCDataModule, (*LINKED, "predict_file")),
    ):
        known = inspect.signature(owner).parameters.keys() - skipped
        values[key] = {name: value for name, value in content.get(section, {}).items() if name in known}
    return values


def quieten() -> None:
    """Silence what a person can do nothing about; warnings that name something to do stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for message in (
        ".*LeafSpec.*is deprecated",  # Lightning's own business
        ".*smaller than the logging interval",  # each epoch has its point all the same
        ".*does not have many workers",  # pairs are tokenized beforehand: workers would only cost time
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", message)


def main(args: list[str] | None = None) -> CLI:
    """Run the command line.

    Args:
        args: The words after the program's name; without it, those of this process.

    Returns:
        The finished command line, with its `trainer`, `model` and `datamodule`.
    """
    quieten()
    try:
        return CLI(
            ParaphraseClassifier,
            MRPCDataModule,
            args=args,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "version": f"mrpc_lightning {__version__}"},
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [RunRecorder(), last_checkpoint()]},
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except InputError as error:
        raise_usage(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        raise_usage(f"{os.fsdecode(error.filename)}: {error.strerror}")
