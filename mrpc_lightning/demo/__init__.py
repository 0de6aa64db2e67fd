"""The embedded default: a small paraphrase corpus, its vocabulary and a small BERT with random weights.

The name "demo" stands for this folder in `data.dataset_name` and in `model.model_name`.
"""

from pathlib import Path

NAME = "demo"
COMMAND = "python -m mrpc_lightning fit --config demo"
FOLDER = Path(__file__).parent


def resolve(model_name: str) -> str:
    """Return where to load a model or a tokenizer from: this folder for "demo", else the name itself."""
    return str(FOLDER) if model_name == NAME else model_name
