"""Which flags there are."""

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mrpc_lightning.cli.parser import Parser
from mrpc_lightning.cli.precedence import LINKED
from mrpc_lightning.cli.settings import CHECKPOINT_DEFAULTS, EARLY_STOPPING_DEFAULTS, TRAINER_DEFAULTS
from mrpc_lightning.cli.trainer import Trainer
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import ParaphraseClassifier

# Flags of one subcommand, beside those of its method of the Trainer: their arguments to `add_argument`.
OWN_FLAGS: dict[str, dict[str, dict[str, Any]]] = {
    "predict": {
        "output": {
            "type": str | None,
            "help": "The table to write: .csv, .tsv, .jsonl or .parquet. Unset: predictions.csv in the run's folder.",
        },
        "glue": {"action": "store_true", "help": "Write GLUE's MRPC.tsv instead, into the run's folder."},
        "pair": {
            "type": str,
            "nargs": 2,
            "metavar": ("SENTENCE1", "SENTENCE2"),
            "help": "Answer this pair alone, and print the answer.",
        },
    },
    "export": {
        "to": {"type": str, "required": True, "help": "The folder to make."},
        "onnx": {"action": "store_true", "help": "Also write model.onnx, checked against PyTorch."},
        "int8": {"action": "store_true", "help": "Also write model.int8.onnx, and say what it costs in F1."},
        "push_to_hub": {
            "type": str | None,
            "help": "Upload the folder to this repository on the Hub, owner/name; private.",
        },
        "public": {"action": "store_true", "help": "Let everybody see that repository."},
    },
}


class Flags(LightningCLI):
    """LightningCLI with this project's flags and defaults.

    Args:
        words: The command line.
    """

    trainer: Any  # Lightning gives it attributes that a type checker does not see

    def __init__(self, words: list[str]) -> None:
        self.words = words
        super().__init__(
            ParaphraseClassifier,
            MRPCDataModule,
            args=words,
            trainer_class=Trainer,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "prog": "python -m mrpc_lightning"},
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, and the arguments of the Trainer's methods that are no flags."""
        # No flag asks for a checkpoint whose loading runs code.
        skipped = {name: {*names, "weights_only"} for name, names in LightningCLI.subcommands().items()}
        skipped["predict"].add("return_predictions")
        return {**skipped, "export": {"model", "datamodule"}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Give flags to the subcommand in use alone: those of each take a tenth of a second."""
        if subcommand not in self.words:
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        for name, options in OWN_FLAGS.get(subcommand, {}).items():
            parser.add_argument(f"--{name}", **options)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two callbacks that every run has, and let the data follow the model's choices."""
        parser.add_argument(
            "--checkpoint_every",
            type=int | None,
            help="Optimizer steps between two writes of last.ckpt; null: as often as costs one percent of the time.",
        )
        parser.add_argument(
            "--run", type=str | None, help="The run that --ckpt_path best or last means; null: the newest."
        )
        parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "model_checkpoint")
        parser.set_defaults({f"early_stopping.{name}": value for name, value in EARLY_STOPPING_DEFAULTS.items()})
        parser.set_defaults({f"model_checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        for name in LINKED:  # this way round, so that a checkpoint's encoder decides on the tokenizer
            parser.link_arguments(f"model.{name}", f"data.{name}")
