"""Validation after each epoch of a run, its first batches asked for before the epoch ends."""

from collections.abc import Callable

from loader_service.client import LoaderClient
from trainer.data.centring import Centring
from trainer.errors import DivergedError
from trainer.evaluate import Evaluation, SplitPass, evaluate, require_images
from trainer.network.columns import TwoColumns
from trainer.ranks import Ranks

BATCH_SIZE = 128
"""Images of a validation step, at most."""


class Validation:
    """Validates ``network`` on a split as often as asked. Every rank calls it at the same places. Close it.

    ``split`` None means ``val``, if the store has it; without a split there is nothing to validate. Raises TrainerError
    when the split asked for holds nothing.
    """

    def __init__(
        self,
        client: LoaderClient,
        network: TwoColumns,
        centring: Centring,
        *,
        split: str | None,
        crop: int,
        ranks: Ranks,
        stopping: Callable[[], bool],
    ) -> None:
        splits = client.describe().splits
        if split is not None:
            require_images("--validation-split", split, splits)
        self._split = split or ("val" if splits.get("val") else None)
        self._client, self._network, self._centring = client, network, centring
        self._crop, self._ranks, self._stopping = crop, ranks, stopping
        self._pass: SplitPass | None = None

    def prepare(self) -> None:
        """Asks for the first batches, unless that has been done; does not wait for them."""
        if self._pass is None and self._split is not None:
            self._pass = SplitPass(
                self._client,
                self._network.devices,
                split=self._split,
                crops="centre",
                crop=self._crop,
                batch_size=BATCH_SIZE,
                ranks=self._ranks,
                interrupted=self._stopping,
            )

    def run(self, epoch: int) -> Evaluation | None:
        """The result after ``epoch``, None without a split. Raises what ``evaluate`` does."""
        self.prepare()
        if self._pass is None:
            return None
        try:
            return evaluate([self._network], self._centring, self._pass, ranks=self._ranks, stopping=self._stopping)
        except DivergedError as error:
            raise DivergedError(f"{error}, validating epoch {epoch}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Ends what is under way."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None
