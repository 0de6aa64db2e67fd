import contextlib
import errno
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from mrpc_lightning.cli.console import quieten
from mrpc_lightning.cli.flags import Flags
from mrpc_lightning.cli.instant import answer_at_once, raise_usage
from mrpc_lightning.cli.parser import check_config_files, split_config_files
from mrpc_lightning.cli.precedence import NOT_OF_A_RUN, Precedence, checkpoint_values
from mrpc_lightning.cli.settings import (
    LOGS,
    check_callbacks,
    check_settings,
    give_folder,
    logs_folder,
    makes_folder,
    pin_logger,
)
from mrpc_lightning.cli.trainer import chosen_by_machine, keep_recipe
from mrpc_lightning.deploy import export, predict
from mrpc_lightning.deploy import predictor as answers
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.encoder import check_width
from mrpc_lightning.pairs.tokens import load_tokenizer
from mrpc_lightning.report import final as closing
from mrpc_lightning.run import runs_old as runs
from mrpc_lightning.run.checkpoint import FiniteLoss, LastCheckpoint
from mrpc_lightning.run.recorder import Answers, RunRecorder, say
from mrpc_lightning.run.signals import StopRequest, slurm_job, stopping_at_once
from mrpc_lightning.run.throughput import Throughput


class CLI(Flags):
    """LightningCLI that says what came of a run, that evaluates what was trained, and that goes on where it stopped."""

    checkpoint: Path | None = None
    content: dict[str, Any]
    trainer: Any  # Lightning gives it attributes that a type checker does not see

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line; where a checkpoint is used, with its values among the others."""
        words = self.words
        self.notes: list[str] = []
        check_config_files(split_config_files(words)[0])
        self.config = parser.parse_args(words)
        subcommand = self.config["subcommand"]
        if subcommand not in words:
            raise InputError(f"say what to do on the command line, not in a config file: {subcommand}")
        config = self.config[subcommand]
        check_settings(config)
        self.checkpoint = runs.choose_checkpoint(subcommand, config, logs_folder(config), (slurm_job(), words))
        if self.checkpoint is None:
            return
        self.content = runs.read_checkpoint(self.checkpoint)
        if config.ckpt_path in (None, "best", "last") and config.run is None:
            self.notes += runs.passed_over(self.checkpoint, logs_folder(config))
        precedence = Precedence(parser, words, subcommand)
        if subcommand == "fit":
            recipe = runs.recipe_to_resume(self.checkpoint, self.content)
            self.config = precedence.resume(recipe, runs.run_folder(self.checkpoint))
            check_settings(self.config[subcommand])
            runs.check_unfinished(self.checkpoint, self.content, self.config[subcommand])
        else:
            saved, dropped = checkpoint_values(self.content)
            self.config = precedence.evaluate(saved, self.checkpoint)
            if dropped:
                self.notes.append(f"dropped   {', '.join(dropped)}: of an older version, and no longer there")
        self.notes += precedence.notes

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning's own would set a checkpoint's values over the command line's flags."""

    def before_instantiate_classes(self) -> None:
        """Keep the recipe of a run, give it a folder, and keep all else from starting one."""
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            config.trainer.logger = False
            config.trainer.enable_checkpointing = None
            config["verbose"] = False
            return
        if config.trainer.logger is True:
            config.trainer.logger = self._parser("fit").get_defaults().trainer.logger
        recipe = yaml.safe_load(self._parser("fit").dump(config, skip_unset=False))
        for key in NOT_OF_A_RUN:
            section, _, name = key.rpartition(".")
            (recipe[section] if section else recipe).pop(name, None)
        self.recipe = recipe
        if self.checkpoint is not None:
            pin_logger(config, runs.run_folder(self.checkpoint), self.content["global_step"])
        elif not makes_folder(config) and config.trainer.default_root_dir is None:
            give_folder(config, runs.next_folder(Path(LOGS) / ("unlogged" if not config.trainer.logger else "runs")))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the Trainer, with what depends on the machine: it is not written into config.yaml."""
        config = self.config_init[self.subcommand]
        chosen, reason = chosen_by_machine(config.trainer, runs.precision(self.content) if self.checkpoint else None)
        kwargs |= chosen
        if self.subcommand != "fit":
            self.notes.append(f"precision {kwargs.get('precision', '')}, {reason}")
            return super().instantiate_trainer(**kwargs)
        check_callbacks(kwargs["callbacks"], config.trainer, resumed=self.checkpoint is not None)
        recorder = RunRecorder(None if self.checkpoint is None else self.content["global_step"], reason)
        kwargs["callbacks"] += [recorder, Throughput(), FiniteLoss()]
        if not config.trainer.fast_dev_run:
            kwargs["callbacks"].append(LastCheckpoint(config.checkpoint_every, StopRequest()))
        trainer: Any = super().instantiate_trainer(**kwargs)
        if config.trainer.fast_dev_run:  # Lightning writes a checkpoint even so
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]
        if self.checkpoint is not None:
            runs.check_processes(self.content, trainer)
        recorder.config = keep_recipe(trainer, self.recipe, self.words)
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
            raise InputError(
                f"Lightning refuses a --trainer or callback value: {' '.join(str(error).split())}"
            ) from error
        config = self.config_init[self.subcommand]
        wanted, config.ckpt_path = config.ckpt_path, None
        if self.subcommand == "export":
            export.check(config)
        if self.subcommand == "predict":
            predict.check(self.config[self.subcommand])
        if self.checkpoint is None:
            if wanted == "none" and self.subcommand != "fit":
                self.model.load_finetuned()
            return
        values = self.config[self.subcommand].model.as_dict()
        self.model = runs.load(ParaphraseClassifier, self.checkpoint, **values)
        self._check_length()
        if self.subcommand == "fit":
            config.ckpt_path = str(self.checkpoint)
        self.datamodule.tokenizer_files = self.content.get("MRPCDataModule", {}).get("tokenizer", {})
        folder = runs.run_folder(self.checkpoint) / "tokenizer"
        if not self.datamodule.tokenizer_files and folder.is_dir():  # of an older version
            self.datamodule.tokenizer = load_tokenizer(str(folder), None, f"--ckpt_path {self.checkpoint}")
        loaded = f"loaded    {runs.describe(self.checkpoint, self.content)}"
        with contextlib.redirect_stdout(sys.stderr) if self._answers_at_once() else contextlib.nullcontext():
            for note in (*self.notes, loaded):
                say(self.trainer, note)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, and where a signal ends it at once, say what is left."""
        try:
            if subcommand == "predict" and (self._answers_at_once() or not self.trainer.fast_dev_run):
                self._predict()
            else:
                super()._run_subcommand(subcommand)
        except Stopped as stopped:
            last = runs.run_dir(self.trainer) / "checkpoints" / "last.ckpt"
            if subcommand == "fit" and str(stopped) == "stopped" and self.trainer.world_size == 1 and last.is_file():
                raise Stopped(stopped.signum, runs.how_to_resume("stopped at once", last.parent.parent)) from stopped
            if subcommand == "predict" and str(stopped) == "stopped" and not self._answers_at_once():
                raise Stopped(stopped.signum, "stopped; the same command goes on where it was") from stopped
            raise
        finally:
            launcher = self.trainer.strategy.launcher
            if sys.exc_info()[0] is not None and hasattr(launcher, "kill"):
                launcher.kill(signal.SIGTERM)  # else the other processes wait for this one

    def before_fit(self) -> None:
        """Read data and encoder before the run's folder is made: bad input leaves nothing behind."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        self.model.setup("fit")
        self._check_length()

    def _check_length(self) -> None:
        values = self.datamodule.hparams
        check_width(self.model.model.config, values["max_length"], values["pad_to_multiple_of"])

    @property
    def folder(self) -> Path:
        """Where an evaluation writes: the run's folder; for an encoder that no run trained, one of its own."""
        if self.checkpoint is not None:
            return runs.run_folder(self.checkpoint)
        return Path(LOGS) / "pretrained" / str(self.model.hparams["model_name"]).strip("./").replace("/", "--")

    def after_fit(self) -> None:
        """Score the best checkpoint on the validation split, and close with a table."""
        if not self._only_a_trial():
            best = self._get(self.config_init, "model_checkpoint").best_model_path
            closing.fit(self.trainer, self.model, self.datamodule, best, self.config[self.subcommand])

    def after_validate(self) -> None:
        """Close with a table."""
        self._close(None, "validation")

    def before_test(self) -> None:
        """Have the answers kept for the report."""
        self.trainer.callbacks.append(Answers())

    def after_test(self) -> None:
        """Close with a table and a report."""
        self._close(self.trainer.callbacks[-1], self.datamodule.test_split)

    def _answers_at_once(self) -> bool:
        config = self.config[self.subcommand]  # in config_init, model and data are objects
        return self.subcommand == "predict" and (config.pair is not None or config.data.predict_file == "-")

    def _predict(self) -> None:
        """Answer one pair, those of standard input, or all of a file."""
        config = self.config[self.subcommand]
        if self._answers_at_once():
            self.model.tokenizer, self.model.max_length = self.datamodule.load_tokenizer(), config.data.max_length
            self.model.autocast_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            if config.pair:
                print(answers.show(self.model.predict([tuple(config.pair)])[0]))
                return
            for line in answers.answer_lines(self.model.eval(), sys.stdin):
                print(line, flush=True)
            return
        path = Path(config.output or self.folder / ("MRPC.tsv" if config.glue else "predictions.csv"))
        made_by = {
            "precision": str(self.trainer.precision),
            **self.model.hparams,
            **{name: config.data[name] for name in ("max_length", "sentence1_column", "sentence2_column")},
        }
        predict.run(self.trainer, self.model, self.datamodule, path, made_by)

    def after_predict(self) -> None:
        """Say that a trial was one; else all is said."""
        self._only_a_trial()

    def after_export(self) -> None:
        """Write the folder."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            content = self.content if self.checkpoint is not None else {}
            metrics = runs.metrics_of(self.checkpoint, content) if self.checkpoint is not None else {}
            export.run(self.model, self.datamodule, self.config_init["export"], content, metrics)

    def _close(self, answers: Answers | None, split: str) -> None:
        if not self._only_a_trial():
            weights = str(self.checkpoint or self.model.hparams["model_name"])
            files = closing.Files(self.folder, f"{self.subcommand}_")
            closing.evaluation(self.trainer, self.model, self.datamodule, answers, split, weights, files)

    def _only_a_trial(self) -> bool:
        if self.trainer.fast_dev_run:
            say(
                self.trainer,
                "\nfast_dev_run: a batch or so of everything ran; nothing was saved; no figure means anything",
            )
        return bool(self.trainer.fast_dev_run)


def main(args: list[str] | None = None) -> CLI:
    """Run the command line.

    Args:
        args: The words after the program's name; without it, those of this process.

    Returns:
        The finished command line, with its `trainer`, `model` and `datamodule`.
    """
    quieten()
    words = sys.argv[1:] if args is None else args
    answer_at_once(words)
    if "predict" in words:
        # As other programs have it: a bare "-" that is no flag's value.
        flag = re.compile(r"--[^=]+")
        bare = [word == "-" and not flag.fullmatch(before) for before, word in zip(["", *words], words, strict=False)]
        words = ["--data.predict_file=-" if dash else word for dash, word in zip(bare, words, strict=True)]
    debug = "--debug" in words
    try:
        with stopping_at_once():
            return CLI(words)
    except Stopped as stopped:
        with contextlib.suppress(OSError):  # the terminal may have gone
            if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
                # The cursor may stand behind a progress bar.
                sys.stderr.write("\n" * sys.stderr.isatty() + f"{stopped}\n")
        sys.exit(128 + stopped.signum)
    except InputError as error:
        if debug:
            raise
        keys = r"(?<![\w.-])((?:model|data)\.[a-z]|trainer\.(?:max_|devices))"
        raise_usage(re.sub(keys, r"--\1", str(error)))
    except OSError as error:
        if error.filename is not None and not debug:
            raise_usage(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if debug or error.errno not in (errno.ENOSPC, errno.EIO, errno.EPIPE):
            raise
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # else Python complains of it again when it ends
        raise_usage(f"the output cannot be written: {error.strerror or error}")
