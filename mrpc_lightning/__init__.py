"""Fine-tune BERT on sentence pairs with Lightning: two classes and a command line.

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrpc_lightning.cli.app import main
    from mrpc_lightning.data import MRPCDataModule
    from mrpc_lightning.model import ParaphraseClassifier

__version__ = "0.1.0"
__all__ = ["MRPCDataModule", "ParaphraseClassifier", "main"]


def __getattr__(name: str) -> Any:
    # torch and lightning take seconds to import; `import mrpc_lightning` does not.
    if name == "main":
        from mrpc_lightning.cli.app import main

        return main
    if name == "MRPCDataModule":
        from mrpc_lightning.data import MRPCDataModule

        return MRPCDataModule
    if name == "ParaphraseClassifier":
        from mrpc_lightning.model import ParaphraseClassifier

        return ParaphraseClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
