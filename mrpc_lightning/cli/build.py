"""The LightningCLI: from words to a Trainer, a model and data."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from mrpc_lightning.cli.flags import EVALUATED, OWN_FLAGS, RESUMED, RUN
from mrpc_lightning.cli.merge import Merge
from mrpc_lightning.cli.parser import Parser, keys_of_files, split_config_files
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import SHARED, ParaphraseClassifier
from mrpc_lightning.origin import lineage, read_checkpoint
from mrpc_lightning.run import provenance, rehearsal, resume
from mrpc_lightning.run.checkpoint import fingerprint, record_facts, without_weights
from mrpc_lightning.run.finite import FiniteLoss
from mrpc_lightning.run.last_checkpoint import LastCheckpoint
from mrpc_lightning.run.processes import as_launched, from_first_process, launcher
from mrpc_lightning.run.recorder import RunRecorder
from mrpc_lightning.run.run import Run, find_checkpoint, newest, passed_over
from mrpc_lightning.run.settings import (
    CHECKPOINT_DEFAULTS,
    EARLY_STOPPING_DEFAULTS,
    TRAINER_DEFAULTS,
    check_callbacks,
    check_settings,
    choose_for_machine,
    logs_folder,
    new_run,
    point_loggers,
)
from mrpc_lightning.run.signals import StopRequest, job
from mrpc_lightning.run.throughput import Throughput

FROM_CONFIG = ("fit", "describe")  # the subcommands that begin from a config; the others from a run


class CLI(LightningCLI):
    """Make the Trainer, model and data of a subcommand, of a new run or of one that is there.

    Attributes:
        command: The subcommand.
        checkpoint: The checkpoint that is resumed or used, if there is one.
        content: What it holds, without its weights once they are in the model.
        run: The run that the command trains, or whose checkpoint it uses; None if there is none.
        notes: Lines for the person at the keyboard.

    Args:
        command: The subcommand.
        words: The command line after it.
        ending: Calls what must be done when the command ends.
    """

    trainer: Any  # Lightning gives it attributes that a type checker does not see

    def __init__(self, command: str, words: list[str], ending: contextlib.ExitStack) -> None:
        self.command, self.words, self.ending = command, words, ending
        self.notes: list[str] = []
        self.checkpoint: Path | None = None
        self.content: dict[str, Any] = {}
        self.run: Run | None = None
        super().__init__(
            ParaphraseClassifier,
            MRPCDataModule,
            args=words,
            run=False,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "prog": f"python -m mrpc_lightning {command}"},
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags of the subcommand, and those of the two callbacks that every run has."""
        parser.add_argument("--ckpt_path", type=str | None, help=RESUMED if self.command == "fit" else EVALUATED)
        parser.add_argument("--run", type=str | None, help=RUN)
        parser.add_argument(
            "--checkpoint_every",
            type=int | None,
            help="Optimizer steps between two writes of last.ckpt; null: as often as costs one percent of the time.",
        )
        parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        for name, options in OWN_FLAGS.get(self.command, {}).items():
            parser.add_argument(f"--{name}", **options)
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "model_checkpoint")
        parser.set_defaults({f"early_stopping.{name}": value for name, value in EARLY_STOPPING_DEFAULTS.items()})
        parser.set_defaults({f"model_checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        for name in SHARED:  # this way round, so that a checkpoint's encoder decides on the tokenizer
            parser.link_arguments(f"model.{name}", f"data.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, together with the values of the run or the checkpoint that it names."""
        assert isinstance(parser, Parser)
        parser.words = self.words
        keys_of_files(split_config_files(self.words)[0])  # names what is wrong with a file
        self.config = parser.parse_args(self.words)
        check_settings(self.config)
        if self.command == "study":
            return
        decided = json.loads(from_first_process(lambda: json.dumps(self._choose())))
        if self.run is None and decided["run"]:
            self.run = Run(decided["run"])
        if not decided["checkpoint"]:
            return
        self.checkpoint = Path(decided["checkpoint"])
        self.run = self.run or Run.of(self.checkpoint)
        self.content = read_checkpoint(self.checkpoint)
        if fingerprint(self.checkpoint) != decided["fingerprint"]:
            raise InputError(f"ckpt_path {self.checkpoint}: is another file than the first process has")
        merge = Merge(parser, self.words)
        if self.command == "fit":
            resume.check_resumable(self.checkpoint, self.content)
            self.config = merge.resume(self.run)
            check_settings(self.config)
            resume.check_steps(self.content, self.config)
            resume.check_unfinished(self.checkpoint, self.content, self.config)
        else:
            self.config = merge.evaluate(self.content, self.checkpoint)
        self.notes += merge.notes

    def _choose(self) -> dict[str, Any]:
        """Choose the checkpoint to use, or make the folder of a new run; on the first process alone."""
        self.ending.callback(os.environ.pop, "MRPC_LIGHTNING_DECIDED", None)
        config, fit = self.config, self.command == "fit"
        wanted, trial, kind = config.ckpt_path, bool(config.trainer.fast_dev_run), "last" if fit else "best"
        if wanted == "none" and config.run is not None:
            raise InputError("--run: --ckpt_path none means no run")
        if fit and wanted == "none":
            wanted = None
        if wanted is None and (config.run is not None or not (trial or self.command in FROM_CONFIG)):
            wanted = kind
        logs = logs_folder(config)
        if wanted is None and fit:
            found = resume.requeued(newest(logs, "last"), resume.job_key(job(), self.words), read_checkpoint)
            wanted = str(found) if found else None
        if fit and trial and wanted is not None:
            raise InputError("--trainer.fast_dev_run: tries a new run, and --ckpt_path resumes one; leave one out")
        if fit and wanted is None and not trial:
            self.run = new_run(config)
        checkpoint = None if wanted in (None, "none") else find_checkpoint(wanted, logs, config.run, kind)
        if checkpoint is not None and wanted in ("best", "last") and config.run is None:
            self.notes += passed_over(checkpoint, logs)
        if fit and checkpoint is not None:
            resume.check_place(checkpoint)
            self.run = Run.of(checkpoint)
        if fit and self.run is not None:
            self.ending.callback(self.run.release)
            self.run.lock()
        folder = None if self.run is None else self.run.folder
        return {
            "checkpoint": str(checkpoint) if checkpoint else None,
            "run": str(folder) if folder else None,
            "fingerprint": fingerprint(checkpoint) if checkpoint and checkpoint.is_file() else None,
        }

    def recipe_of(self, config: Any) -> dict[str, Any]:
        """Return a configuration as plain values, without what is of one command, and without secrets."""
        recipe: dict[str, Any] = yaml.safe_load(self.parser.dump(config, skip_unset=False))
        for key in (*resume.NOT_OF_A_RUN, *OWN_FLAGS.get(self.command, {})):
            section, _, name = key.rpartition(".")
            (recipe[section] if section else recipe).pop(name, None)
        recipe["trainer"] = resume.without_secrets(recipe["trainer"])
        return recipe

    def before_instantiate_classes(self) -> None:
        """Write down the recipe of a run, and let everything that it writes go into its folder."""
        config = self.config
        if self.command == "study":
            return
        if self.command != "fit":
            config.trainer.logger = False
            config.trainer.enable_checkpointing = None
            if self.command == "describe":
                if launcher() is not None:
                    raise InputError("describe: is of one process; start it without torchrun or srun")
                for name, value in rehearsal.ARGUMENTS.items():
                    config.trainer[name] = value
            if self.command == "export":
                config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
            return
        if config.trainer.logger is True:
            config.trainer.logger = self.parser.get_defaults().trainer.logger
        self.recipe = yaml.safe_dump(self.recipe_of(config), sort_keys=False, allow_unicode=True)
        if self.run is not None:
            point_loggers(config, self.run, self.content.get("global_step"))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the Trainer, with what depends on the machine: that is not in the recipe."""
        config, resumed = self.config_init, self.checkpoint is not None
        trained_in = self.content.get("made_with", {}).get("trainer_precision")
        chosen, reason = choose_for_machine(config.trainer, trained_in, resumed)
        kwargs |= {**chosen, **as_launched(config.trainer)}
        if self.command != "fit":
            self.notes.append(f"precision {kwargs.get('precision', '')}, {reason}")
            return super().instantiate_trainer(**kwargs)
        check_callbacks(kwargs["callbacks"], config.trainer, resumed)
        recorder = RunRecorder(self.run, self.recipe, reason, self.content.get("global_step"))
        kwargs["callbacks"] += [recorder, Throughput(), FiniteLoss()]
        if self.run is not None:
            kwargs["callbacks"].append(LastCheckpoint(self.run, config.checkpoint_every, StopRequest()))
        trainer: Any = super().instantiate_trainer(**kwargs)
        if self.run is None:  # Lightning writes a checkpoint in a trial, too
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]
        self.notes += provenance.changes(self.content.get("made_with", {}), trainer)
        before = self.content.get("world_size", trainer.world_size)
        if before != trainer.world_size:
            self.notes.append(
                f"changed   from {before} to {trainer.world_size} processes: optimizer steps see the same pairs as "
                "before, but dropout draws other numbers, so that metrics differ"
            )
        recorder.config = record_facts(trainer, self.recipe, resume.job_key(job(), self.words))
        return trainer

    def instantiate_classes(self) -> None:
        """Make model, data and Trainer; the model with its weights, where there is a checkpoint.

        Raises:
            InputError: If the Trainer or a callback does not take a value.
        """
        if self.command == "study":  # its runs are processes of their own
            return
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError, TypeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            text = " ".join(str(error).split())
            raise InputError(f"Lightning refuses a --trainer or callback value: {text}") from error
        if self.checkpoint is None:
            if self.config.ckpt_path == "none" and self.command not in FROM_CONFIG:
                self.model.load_finetuned()
            return
        try:
            self.model = ParaphraseClassifier.restore(self.content, **self.config.model.as_dict())
        except InputError as error:
            raise InputError(f"ckpt_path {self.checkpoint}: {error}") from error
        self.content = without_weights(self.content)
        self.datamodule.tokenizer_files = self.content["MRPCDataModule"]["tokenizer"]
        self.datamodule.ancestors = lineage(self.content, Run.of(self.checkpoint).folder)[1:]
