"""What is kept off the terminal."""

import logging
import warnings


def quieten() -> None:
    """Silence what a person can do nothing about; warnings that name something to do stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for message in (
        ".*LeafSpec.*is deprecated",  # Lightning's own business
        ".*instantiate_classes.* was deprecated",  # the same
        ".*smaller than the logging interval",  # each epoch has its point all the same
        ".*does not have many workers",  # pairs are tokenized beforehand: workers would only cost time
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory .* exists and is not empty",  # CSVLogger's table was put aside
        "Couldn't infer the batch indices",  # the batches' sampler knows them
        ".*your dataloader is not resumable",  # it is, by the data module's state
    ):
        warnings.filterwarnings("ignore", message)
