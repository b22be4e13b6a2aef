"""The ``describe`` command: the network that options make, before anything runs."""

from loader_service.client import LoaderClient
from trainer.config import DescribeConfig
from trainer.data.crops import default_crop
from trainer.errors import TrainerError
from trainer.network.describe import describe_architecture


def run_describe(config: DescribeConfig) -> None:
    """Prints the network's layers and sizes. Asks the loaders for what --crop and --num-classes leave open, if any."""
    image_side, num_classes = 256, 1000
    if config.target:
        with LoaderClient(config.target, config.client_options) as client:
            description = client.describe()
        image_side, num_classes = description.image_side, len(description.classes)
    try:
        architecture = config.architecture(
            crop=config.crop or default_crop(image_side), num_classes=config.num_classes or num_classes
        )
    except ValueError as error:
        raise TrainerError(f"the store's images make no network: {error}") from None
    print(f"recipe {config.recipe}, width {config.width:g}, columns {config.columns}")
    print(describe_architecture(architecture))
