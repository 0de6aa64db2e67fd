"""Fine-tune BERT on sentence pairs with Lightning: two classes and a command line.

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrpc_lightning.cli.app import main
    from mrpc_lightning.data import MRPCDataModule
    from mrpc_lightning.deploy.predictor import Predictor
    from mrpc_lightning.model import ParaphraseClassifier
    from mrpc_lightning.pairs.tables import Prediction
    from mrpc_lightning.run.run import Run

__version__ = "0.1.0"
__all__ = ["MRPCDataModule", "ParaphraseClassifier", "Prediction", "Predictor", "Run", "main"]
_PLACES = {
    "MRPCDataModule": "mrpc_lightning.data",
    "ParaphraseClassifier": "mrpc_lightning.model",
    "Prediction": "mrpc_lightning.pairs.tables",
    "Predictor": "mrpc_lightning.deploy.predictor",
    "Run": "mrpc_lightning.run.run",
    "main": "mrpc_lightning.cli.app",
}


def __getattr__(name: str) -> Any:
    # torch and lightning take seconds to import; `import mrpc_lightning` does not.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
