"""Subcommands, this project's own flags, and the help on those that matter. Nothing heavy is imported here."""

import textwrap
from collections.abc import Mapping
from typing import Any

SUBCOMMANDS = {
    "fit": "train, keep the best checkpoint, and score it",
    "describe": "say what the pairs are, and how long an epoch will take, before any training",
    "validate": "score a checkpoint on the validation split",
    "test": "score a checkpoint on the validation split, or on the test split where its labels are known",
    "predict": "write a checkpoint's prediction for each pair of a file",
    "export": "write a checkpoint as a model folder for transformers",
    "runs": "list the runs that there are, newest or best first",
    "compare": "say how runs differ on the pairs that all of them scored, and whether that is more than chance",
    "study": "train settings with several seeds each, and say what the differences are worth",
}
CKPT_PATH = '"best" or "last", of the newest run that has one; a run\'s folder; or a checkpoint file.'
# The flags of one subcommand, as `add_argument` takes them.
OWN_FLAGS: dict[str, dict[str, dict[str, Any]]] = {
    "describe": {
        "output": {"type": str | None, "help": "Also write the description as a page, NAME.html, or as NAME.json."},
    },
    "test": {
        "threshold": {
            "type": float | None,
            "help": "Also score the answers that this probability of the positive class makes, in place of 0.5.",
        },
    },
    "predict": {
        "output": {
            "type": str | None,
            "help": "The table to write: .csv, .tsv, .jsonl or .parquet. Unset: predictions.csv in the run's folder.",
        },
        "glue": {"action": "store_true", "help": "Write GLUE's MRPC.tsv instead, into the run's folder."},
        "calibrated": {
            "action": "store_true",
            "help": "Use the threshold and the temperature that a study with --folds has left in the run.",
        },
        "threshold": {
            "type": float | None,
            "help": "Answer with the positive class from above this probability on, between 0 and 1. Unset: 0.5.",
        },
        "strict": {
            "action": "store_true",
            "help": "Refuse a row or line that cannot be scored, instead of leaving its prediction empty.",
        },
        "pair": {
            "type": str,
            "nargs": 2,
            "metavar": ("SENTENCE1", "SENTENCE2"),
            "help": "Print the prediction for this pair alone.",
        },
    },
    "export": {
        "to": {"type": str, "required": True, "help": "The folder to make."},
        "onnx": {"action": "store_true", "help": "Also write model.onnx, checked against PyTorch."},
        "int8": {"action": "store_true", "help": "Also write model.int8.onnx, and say what it costs in F1."},
        "push_to_hub": {
            "type": str | None,
            "help": "Upload to owner/name on the Hub; private, unless --public is given.",
        },
        "public": {"action": "store_true", "help": "Let everybody see that repository."},
    },
    "study": {
        "seeds": {"type": int | None, "help": "Seeds of each setting, 1, 2, ...: a total. Unset: 10, or one a fold."},
        "grid": {
            "type": str,
            "nargs": "+",
            "metavar": "KEY=VALUE,VALUE",
            "help": "What to vary: every combination is a setting; the others are compared with the first.",
        },
        "search": {
            "type": str,
            "nargs": "+",
            "metavar": "KEY=LOW..HIGH",
            "help": "What to search instead, with Optuna; :log at the end for a logarithmic scale.",
        },
        "trials": {"type": int, "default": 20, "help": "Settings of a search: a total, over all commands."},
        "folds": {
            "type": int | None,
            "help": "Let each seed leave out one of so many folds of the training pairs, and choose its epoch on it.",
        },
        "soup": {"action": "store_true", "help": "Also average the weights of the best setting's runs."},
        "distill": {"action": "store_true", "help": "Also train one model on the probabilities of these runs."},
        "workers": {"type": int, "default": 1, "help": "Runs at a time; they share this machine's cores."},
        "name": {"type": str, "default": "study", "help": "The study's folder within tb_logs."},
    },
}
RESUMED = f"The run to resume: {CKPT_PATH}"
EVALUATED = f'What to use: {CKPT_PATH} Unset: "best". "none": an encoder that was fine-tuned elsewhere, as it is.'
RUN = 'The run that --ckpt_path "best" or "last" means, such as version_3. Unset: the newest.'
SPEED_ALONE = "Pairs a batch of a process; changes speed and memory alone."
# What a subcommand's help begins with: an example, and the flags that matter. Texts of flags above stand there alone.
HELP: dict[str, tuple[str, dict[str, str]]] = {
    "describe": (
        "describe --config configs/mrpc.yaml --output pairs.html",
        {
            "config": "A YAML file of flags, as for fit.",
            "data.train_file": "Your training pairs: CSV, TSV, JSON lines or Parquet. Unset: MRPC, from the Hub.",
            "data.validation_file": "Your validation pairs. Unset: a tenth of the training file is held out.",
            "data.max_length": "Tokens a pair; a longer one is cut.",
            "output": "",
            "seed_everything": "Seed of the ten pairs that are shown.",
        },
    ),
    "fit": (
        "fit --config configs/mrpc.yaml --model.model_name FacebookAI/roberta-base",
        {
            "config": "A YAML file of flags. configs/mrpc.yaml has all that matter, with their meaning and default.",
            "model.model_name": 'The encoder: a name on the Hugging Face Hub, a local folder, a run, or "demo".',
            "model.learning_rate": "Peak learning rate of AdamW.",
            "data.global_batch_size": "Training pairs an optimizer step, over all processes.",
            "data.train_file": "Your training pairs: CSV, TSV, JSON lines or Parquet. Unset: MRPC, from the Hub.",
            "data.validation_file": "Your validation pairs. Unset: a tenth of the training file is held out.",
            "trainer.max_epochs": "Passes over the training pairs.",
            "early_stopping.patience": "Validations without an improvement before training stops.",
            "seed_everything": "Seed of the head's first weights, the order of pairs and dropout.",
            "ckpt_path": RESUMED,
        },
    ),
    "validate": (
        "validate --ckpt_path last",
        {"ckpt_path": EVALUATED, "run": RUN, "data.validation_file": "Other pairs than the run's."},
    ),
    "test": (
        "test --data.test_file labelled_pairs.csv",
        {
            "ckpt_path": EVALUATED,
            "run": RUN,
            "data.test_file": "Labelled pairs to score. Unset: the run's validation split.",
            "data.test_split": "The split to score: train, validation or test.",
            "threshold": "",
            "data.eval_batch_size": SPEED_ALONE,
        },
    ),
    "predict": (
        "predict --data.predict_file new_pairs.csv",
        {
            "ckpt_path": EVALUATED,
            "run": RUN,
            "data.predict_file": "The pairs, with or without labels; -: standard input. Unset: the run's test split.",
            "output": "",
            "pair": "",
            "glue": "",
            "calibrated": "",
            "threshold": "",
            "strict": "",
            "data.eval_batch_size": SPEED_ALONE,
        },
    ),
    "export": (
        "export --to my-model",
        {"to": "", "onnx": "", "int8": "", "push_to_hub": "", "ckpt_path": EVALUATED, "run": RUN},
    ),
}
HELP["study"] = (
    "study --config configs/mrpc.yaml --seeds 10 --grid model.learning_rate=2e-5,5e-5",
    {"config": HELP["fit"][1]["config"], **dict.fromkeys(OWN_FLAGS["study"], "")},
)
# What Hugging Face's Trainer and other programs call our keys.
ELSEWHERE = {
    "batch_size": "data.global_batch_size",
    "bf16": "trainer.precision",
    "epochs": "trainer.max_epochs",
    "eval_steps": "trainer.val_check_interval",
    "eval_strategy": "trainer.check_val_every_n_epoch",
    "fp16": "trainer.precision",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "learning_rate": "model.learning_rate",
    "logging_steps": "trainer.log_every_n_steps",
    "lr": "model.learning_rate",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_length": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_steps": "trainer.max_steps",
    "metric_for_best_model": "model_checkpoint.monitor",
    "model": "model.model_name",
    "model_name_or_path": "model.model_name",
    "num_train_epochs": "trainer.max_epochs",
    "output_dir": "trainer.logger.save_dir",
    "per_device_eval_batch_size": "data.eval_batch_size",
    "per_device_train_batch_size": "data.global_batch_size",
    "report_to": "trainer.logger",
    "resume_from_checkpoint": "ckpt_path",
    "save_steps": "checkpoint_every",
    "seed": "seed_everything",
    "train_file": "data.train_file",
    "validation_file": "data.validation_file",
    "warmup_ratio": "model.warmup",
    "warmup_steps": "model.warmup",
    "weight_decay": "model.weight_decay",
}


def help_of(subcommand: str, defaults: Mapping[str, Any] | None = None) -> str:
    """Return the help of a subcommand: an example and the flags that matter.

    Args:
        subcommand: The subcommand.
        defaults: The defaults of its flags, where they are known.
    """
    example, texts = HELP[subcommand]
    lines = []
    for flag, text in texts.items():
        default = (defaults or {}).get(flag)
        shown = "" if default in (None, False) else f" (default: {default})"
        lines += textwrap.wrap(
            f"{'--' + flag:26}{text or OWN_FLAGS[subcommand][flag]['help']}{shown}",
            100,
            initial_indent="  ",
            subsequent_indent=" " * 28,
        )
    return (
        f"usage: python -m mrpc_lightning {subcommand} [--config FILE] [--flag value ...]\n\n"
        f"{SUBCOMMANDS[subcommand].capitalize()}. For example:\n\n  python -m mrpc_lightning {example}\n\n"
        "The flags that matter:\n\n" + "\n".join(lines) + "\n"
    )
