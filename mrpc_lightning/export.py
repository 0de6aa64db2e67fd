"""A model folder for transformers."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier


def check_folder(folder: Path) -> None:
    """See to it that an export writes over nothing.

    Raises:
        InputError: If the folder holds something, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: is there already and not empty; give a new folder")


def export(model: ParaphraseClassifier, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that `AutoModelForSequenceClassification` and `AutoTokenizer` load.

    Args:
        model: The model, with its weights.
        tokenizer: The tokenizer that the model was trained with.
        folder: The folder to make.
    """
    assert model.model is not None
    model.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
