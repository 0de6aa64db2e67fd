"""What each subcommand does with the Trainer, the model and the data."""

import atexit
import contextlib
import io
import json
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mrpc_lightning import demo
from mrpc_lightning.cli.build import CLI
from mrpc_lightning.cli.flags import OWN_FLAGS
from mrpc_lightning.cli.parser import Parser, flags_given, keys_of_files, split_config_files, without
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy import export as exporting
from mrpc_lightning.deploy import predict as predicting
from mrpc_lightning.deploy.predictor import Predictor, needed, show
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.encoder import check_width
from mrpc_lightning.pairs.checks import OtherLabels
from mrpc_lightning.report import description, final
from mrpc_lightning.report.calibration import Calibration
from mrpc_lightning.run.checkpoint import best_of
from mrpc_lightning.run.checkpoint import describe as name_of
from mrpc_lightning.run.processes import failing_together, meet_again, part
from mrpc_lightning.run.recorder import say
from mrpc_lightning.run.rehearsal import rehearse
from mrpc_lightning.run.resume import how_to_resume
from mrpc_lightning.run.run import LOGS, Run, replacing
from mrpc_lightning.run.settings import check_batches, check_settings, makes_folder
from mrpc_lightning.run.signals import requeue

TRIAL = "\nfast_dev_run: a batch or so of everything ran; nothing was saved; no metric means anything"


def run(cli: CLI) -> None:
    """Run a subcommand; if it fails, end the processes that it started."""
    if cli.command == "study":
        study(cli)
        return
    meet_again(cli.trainer.strategy.root_device)
    atexit.register(part)
    try:
        {
            "fit": fit,
            "describe": describe,
            "validate": evaluate,
            "test": evaluate,
            "predict": predict,
            "export": export,
        }[cli.command](cli)
    finally:
        launcher = cli.trainer.strategy.launcher
        if sys.exc_info()[0] is not None and hasattr(launcher, "kill"):
            launcher.kill(signal.SIGTERM)  # else the other processes wait for this one


def prepare(cli: CLI, stage: str) -> None:
    """Read the pairs and the encoder, and say what was loaded: mistakes show before anything is written or computed."""
    data = cli.datamodule
    data.trainer = cli.trainer
    with failing_together():
        try:
            if stage == "fit" and cli.config.data.test_file:
                data.read("test")  # a mistake in it shows now, not after training
            data.setup(stage)
        except OtherLabels as error:
            if cli.checkpoint is None:
                raise
            raise InputError(f"{error.what}, the classes of the run: rename them in the file") from error
        cli.model.setup(stage)
        announce(cli)


def announce(cli: CLI) -> None:
    """Print what the person should know before the work begins."""
    values = cli.config.data
    if cli.model.model is not None:
        check_width(cli.model.model, values.max_length, values.pad_to_multiple_of)
    loaded = [] if cli.checkpoint is None else [f"loaded    {name_of(cli.checkpoint, cli.content)}"]
    for note in (*cli.notes, *loaded):
        say(cli.trainer, note)


def fit(cli: CLI) -> None:
    """Train, score the best checkpoint on the validation split, and close with a table and a report."""
    data, trainer, model = cli.datamodule, cli.trainer, cli.model
    resumed = str(cli.checkpoint) if cli.checkpoint else None
    try:
        prepare(cli, "fit")
        check_batches(trainer, data)
        trainer.fit(model, datamodule=data, ckpt_path=resumed, weights_only=True)
        if cli.run is None:
            say(trainer, TRIAL)
        else:
            best = best_of(trainer, cli.config_init.model_checkpoint, cli.run)
            final.fit(trainer, model, data, cli.run, cli.config, best)
    except Stopped as stopped:
        # At once: before training, in the middle of a step, or after training. Else the callback has said all.
        if cli.run is None or str(stopped) != "stopped" or not trainer.is_global_zero:
            raise
        what = "stopped at once" + requeue(stopped.signum)
        if cli.run.last.is_file():
            what = how_to_resume(what, cli.run.folder)
        raise Stopped(stopped.signum, what) from stopped


def describe(cli: CLI) -> None:
    """Say what the pairs are, and how long an epoch takes here."""
    output = Path(cli.config.output) if cli.config.output else None
    if output and (output.suffix not in (".html", ".json") or not output.parent.is_dir()):
        raise InputError(f"--output {output}: a file's name that ends with .html or .json, in a folder that is there")
    if not Path(demo.resolve(cli.model.hparams["model_name"])).exists():
        cli.model.hparams["pretrained"] = False  # an epoch takes as long with any weights: none need be downloaded
    prepare(cli, "fit")
    epoch = rehearse(cli.trainer, cli.model, cli.datamodule)
    found = description.describe(cli.datamodule, epoch, torch.initial_seed() % 2**32)
    print(f"\n{description.text(found)}")
    if output:
        content = description.page(found) if output.suffix == ".html" else json.dumps(found, indent=2) + "\n"
        with replacing(output) as file:
            file.write_text(content, encoding="utf-8")
        print(f"\nalso in {output}")


def evaluate(cli: CLI) -> None:
    """Score a checkpoint, and close with a table; `test` with a report as well."""
    split = cli.datamodule.test_split if cli.command == "test" else "validation"
    threshold, warnings = Calibration.at(cli.config.get("threshold")), []
    prepare(cli, cli.command)
    if cli.content and split in cli.datamodule.other_pairs(cli.content["MRPCDataModule"]):
        warnings.append(
            f"these are not the {split} pairs of the run: {cli.datamodule.source(split)} has changed since, or is "
            "another; pairs among them may have been trained on"
        )
    if cli.trainer.fast_dev_run:
        cli.trainer.predict(cli.model, cli.datamodule.scoring_dataloader(split))
        say(cli.trainer, TRIAL)
        return
    weights = str(cli.checkpoint or cli.model.hparams["model_name"])
    final.evaluate(
        cli.trainer, cli.model, cli.datamodule, folder_of(cli), cli.command, split, weights, warnings, threshold
    )


def folder_of(cli: CLI) -> Run:
    """Return where a command writes: the run; for an encoder that no run trained, a folder of its own."""
    name = str(cli.model.hparams["model_name"]).strip("./").replace("/", "--")
    return cli.run or Run(LOGS / "pretrained" / name)


def predict(cli: CLI) -> None:
    """Predict one pair, those of standard input, or all of a file."""
    with failing_together():
        predicting.check(cli.config)
    config, values = cli.config, cli.config.data
    calibration = Calibration.at(config.threshold, config.calibrated)
    if config.calibrated:
        calibration = needed(Calibration.of(cli.checkpoint) if cli.checkpoint else None, cli.checkpoint or "none")
    if calibration is not None:
        cli.notes.append(f"answers   with {calibration}")
    if config.pair is not None or values.predict_file == "-":
        with contextlib.redirect_stdout(sys.stderr):
            announce(cli)
        cli.model.tokenizer, cli.model.max_length = cli.datamodule.load_tokenizer(), values.max_length
        cli.model.autocast_dtype = torch.bfloat16 if cli.trainer.precision == "bf16-mixed" else None
        predictor = Predictor(cli.model, cli.trainer.strategy.root_device, calibration)
        if config.pair:
            print(show(predictor.predict([tuple(config.pair)])[0]))
            return
        if isinstance(sys.stdin, io.TextIOWrapper):  # whatever the terminal's language; other bytes are a line's fault
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        columns = (values.sentence1_column, values.sentence2_column)
        for line in predictor.predict_lines(sys.stdin, columns, config.strict):
            print(line, flush=True)
        return
    if cli.trainer.fast_dev_run:
        prepare(cli, "predict")
        cli.trainer.predict(cli.model, cli.datamodule.predict_dataloader())
        say(cli.trainer, TRIAL)
        return
    announce(cli)
    run = folder_of(cli)
    path = Path(config.output) if config.output else run.path("MRPC.tsv" if config.glue else "predictions.csv")
    made_by = {
        "precision": str(cli.trainer.precision),
        **cli.model.hparams,
        **{name: values[name] for name in ("max_length", "sentence1_column", "sentence2_column")},
        "calibration": calibration,
    }
    predicting.run(cli.trainer, cli.model, cli.datamodule, path, made_by, config.glue, calibration, config.strict)


def export(cli: CLI) -> None:
    """Write a model folder."""
    exporting.check(cli.config)
    announce(cli)
    exporting.run(cli.model, cli.datamodule, cli.config, cli.run, cli.checkpoint, cli.content)


def study(cli: CLI) -> None:
    """Train settings with several seeds each, and compare them."""
    if missing := [name for name in ("scipy", "optuna") if find_spec(name) is None]:
        raise InputError(f"study: needs {' and '.join(missing)}: python -m pip install {' '.join(missing)}")
    from mrpc_lightning.study import plan, search  # scipy and Optuna take seconds to import
    from mrpc_lightning.study.study import Study

    config, first = cli.config, cli.config.trainer.logger
    assert isinstance(cli.parser, Parser)
    if config.ckpt_path is not None or config.run is not None:
        raise InputError("ckpt_path: a study makes runs of its own, and continues them by itself; leave it out")
    if config.trainer.fast_dev_run:
        raise InputError("trainer.fast_dev_run: a study compares whole runs; try one with fit")
    if config.folds is not None and config.folds < 2:
        raise InputError(f"--folds {config.folds}: at least 2")
    seeds = config.folds or 10 if config.seeds is None else config.seeds
    if seeds < 1 or config.workers < 1 or config.trials < 1:
        raise InputError(f"--seeds {seeds} --workers {config.workers} --trials {config.trials}: at least 1 of each")
    if config.grid and config.search:
        raise InputError("--search: chooses the settings itself; leave --grid out")
    if not re.fullmatch(r"[\w.,=+-]*\w", config.name):
        raise InputError(f"--name {config.name}: a folder's name, of letters, digits and .,=+-_")
    given = {key for key, _, _ in flags_given(cli.words)}
    if "seed_everything" in given:
        raise InputError("--seed_everything: a study has seeds 1, 2, ...; say how many with --seeds")
    for key, _, place in keys_of_files(split_config_files(cli.words)[0]):
        if key in OWN_FLAGS["study"]:
            raise InputError(f"{place}: is of the study, not of its runs; give it on the command line")
    if config.data.fold:
        raise InputError("data.fold: a study chooses the folds; say how many with --folds")
    if (config.folds or config.soup) and (config.data.test_file or config.data.test_split):
        raise InputError(
            "data.test_file: --folds and --soup score the validation split; leave test_file, test_split out"
        )
    if config.distill and config.folds and seeds < config.folds:
        raise InputError(f"--distill: needs a run for each of {config.folds} folds; give --seeds {config.folds}")
    if "trials" in given and not config.search:
        raise InputError("--trials: goes with --search")
    if not makes_folder(first):
        raise InputError("trainer.logger: a study needs TensorBoardLogger or CSVLogger, which keep runs in a folder")
    words, parser = without(cli.words, OWN_FLAGS["study"]), cli.parser

    def recipe_of(setting: plan.Setting) -> dict[str, Any]:
        if own := [key for key, _ in setting.values if key in OWN_FLAGS["study"]]:
            raise InputError(f"--{own[0]}: is the same for all runs of a study")
        parser.words = setting.words(words)
        values = parser.parse_args(parser.words)
        check_settings(values)
        ParaphraseClassifier(**values.model.as_dict())  # what their values must be is known to them alone
        MRPCDataModule(**values.data.as_dict())
        return cli.recipe_of(values)

    folder = Path(first.init_args.get("save_dir") or LOGS) / config.name
    if config.search:
        recipes = [recipe_of(setting) for setting in search.ends(config.search)]
        chosen: Any = search.Search(folder, config.search, config.trials, seeds, config.folds)
    else:
        chosen = plan.Grid(folder, plan.settings(config.grid or []), seeds, config.folds)
        recipes = [recipe_of(setting) for setting in chosen.settings]
        for setting, recipe in zip(chosen.settings, recipes, strict=True):
            if recipes.count(recipe) > 1:
                raise InputError(f"--grid: {setting.name} is the same as another setting")
    fold = f"1/{config.folds}" if config.folds else None
    plan.data_of(recipes[0], fold=fold).read("train")  # a mistake in the pairs shows before any run
    Study(chosen, recipe_of, words, config.workers).run(config.soup, config.distill)
