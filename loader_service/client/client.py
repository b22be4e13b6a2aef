"""One client of one store: describes it, opens streams of it, closes them."""

import logging
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import Self
from weakref import WeakSet

from loader_service.client.assembly import Allocate
from loader_service.client.descriptions import Descriptions
from loader_service.client.discovery import resolve
from loader_service.client.options import ClientOptions
from loader_service.client.replica import Replica, expect_same_stream
from loader_service.client.stream import BatchStream
from loader_service.wire.addresses import check_target
from loader_service.wire.errors import (
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)
from loader_service.wire.types import Description, StreamSpec, check_epoch

log = logging.getLogger(__name__)

_QUESTION_TIMEOUT_S = 5.0
_SILENT_WAIT_S = 1.2
"""How long to wait for a service without a word."""
_RETRY_INTERVAL_S = 0.2
_COMPANY_S = 0.1
"""For other replicas to answer after the first, so that those which differ are an error at once, nearly always."""


class LoaderClient:
    """A client of one store, served by ``targets`` (``host:port``, ``unix:PATH``, or ``dns:NAME:PORT`` for all of
    a name's addresses). It can be carried across a fork, its streams cannot.

    Raises ValueError for what is no address, and AccessError when a file of ``options.security`` is of no use.
    """

    def __init__(self, targets: Sequence[str], options: ClientOptions | None = None) -> None:
        if isinstance(targets, str) or not targets:
            raise ValueError(f"targets: expected a list of at least one HOST:PORT, found {targets!r}")
        for target in targets:
            check_target(target)
        self._targets = tuple(targets)
        self._options = options or ClientOptions()
        self._options.security.check()
        self._id = uuid.uuid4().hex
        self._descriptions = Descriptions()
        self._description: Description | None = None
        self._streams: WeakSet[BatchStream] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> Description:
        """What the replicas serve: what the first of them says, all being asked at once, and once.

        Those that answer soon after are compared with it; a stream does so with the rest, and refuses those that
        differ. Raises MismatchError when two differ in store or pipeline, and ServiceUnavailableError when none has
        answered for ``unavailable_timeout_s``.
        """
        if self._description is not None:
            return self._description
        started, has_said = time.monotonic(), False
        deadline = started + self._options.unavailable_timeout_s
        names, failures = ",".join(self._targets), dict[str, str]()
        while True:
            # Clients that were refused together come back apart.
            until = min(time.monotonic() + _RETRY_INTERVAL_S * random.uniform(1.0, 2.0), deadline)
            answers = {self._descriptions.ask(replica): target for target, replica in self._replicas().items()}
            found = _first_of(answers, until)
            for answer, target in answers.items():
                if answer.done() and (error := answer.exception()) is not None:
                    failures[target] = str(error)
            if found:
                for target in failures.keys() - found.keys():
                    self._descriptions.warn(target, failures[target])
                first_target, description = next(iter(found.items()))
                for target, other in found.items():
                    expect_same_stream(target, other, description, of=first_target)
                self._description = description
                return description
            unanswered = [f"{target}: has not answered" for target in answers.values() if target not in failures]
            reasons = "; ".join([*failures.values(), *unanswered]) or f"no address for {names}"
            if time.monotonic() - started >= _SILENT_WAIT_S and not has_said:
                log.warning("waiting up to %g s for %s: %s", self._options.unavailable_timeout_s, names, reasons)
                has_said = True
            if time.monotonic() >= deadline:
                raise ServiceUnavailableError(
                    f"expected a loader at {names}, found none in {self._options.unavailable_timeout_s:g} s: {reasons}"
                )
            time.sleep(max(until - time.monotonic(), 0.0))

    def num_steps(self, spec: StreamSpec) -> int:
        """Steps of an epoch of ``spec``. Raises InvalidRequestError when there is no such split."""
        splits = self.describe().splits
        if spec.split not in splits:
            raise InvalidRequestError(f"split: expected one of {', '.join(splits)}, found {spec.split!r}")
        return spec.num_steps(splits[spec.split])

    def stream(
        self,
        spec: StreamSpec,
        *,
        epoch: int = 0,
        step: int = 0,
        num_epochs: int | None = 1,
        allocate: Allocate | None = None,
    ) -> BatchStream:
        """Batches from (``epoch``, ``step``) on, in order, across epochs, until ``num_epochs`` after ``epoch`` have
        ended (None: without end).

        ``allocate(shape, dtype)`` makes the arrays that images are received into, which then belong to the batch
        (default: arrays that are used again once nobody refers to them): pass one that returns pinned memory to copy
        from it to a GPU. Raises InvalidRequestError when the spec does not fit the store, ValueError for numbers that
        fit no store, and what ``describe`` raises.
        """
        check_epoch(epoch)
        if num_epochs is not None and num_epochs < 0:
            raise ValueError(f"num_epochs: expected 0 or more, or None, found {num_epochs}")
        description = self.describe()
        steps_per_epoch = self.num_steps(spec)
        if steps_per_epoch < 1:
            raise InvalidRequestError(
                f"batch_size: split {spec.split!r} has {description.splits[spec.split]} images, "
                f"less than one batch of {spec.batch_size}"
            )
        if spec.batch_size > description.limits.max_batch_size:
            raise InvalidRequestError(
                f"batch_size: expected at most {description.limits.max_batch_size}, found {spec.batch_size}"
            )
        if spec.is_resized and not description.resize_version:
            raise InvalidRequestError("view: expected a service that has resized_crop, found one that is older")
        if not 0 <= step < steps_per_epoch:
            raise InvalidRequestError(f"step: expected 0 to {steps_per_epoch - 1}, found {step}")
        stream = BatchStream(
            spec=spec,
            description=description,
            find_replicas=self._replicas,
            epoch=epoch,
            step=step,
            num_epochs=num_epochs,
            allocate=allocate,
            options=self._options,
            descriptions=self._descriptions,
        )
        self._streams.add(stream)
        return stream

    def names(self, split: str, indices: Iterable[int]) -> tuple[str, ...]:
        """The names that images had in their source, for indices in a split as batches have them.

        Raises InvalidRequestError for those that it has not, and what ``describe`` raises.
        """
        fingerprint, wanted = self.describe().fingerprint, [int(index) for index in indices]
        failure: LoaderError = ServiceUnavailableError(f"no address for {','.join(self._targets)}")
        for replica in self._replicas().values():
            try:
                with replica.connect() as connection:
                    return connection.names(fingerprint, split, wanted, _QUESTION_TIMEOUT_S)
            except (DataLossError, MismatchError, OverloadedError, ServiceUnavailableError) as error:
                failure = error  # another may answer
        raise failure

    def server_cpu_s(self) -> float:
        """User and system time that the replicas which answer have used so far, together."""
        total = 0.0
        for replica in self._replicas().values():
            with replica.connect() as connection, suppress(OverloadedError, ServiceUnavailableError):
                total += connection.describe(_QUESTION_TIMEOUT_S).cpu_s
        return total

    def close(self) -> None:
        """Closes the streams that are still open, and breaks off what replicas are still being asked."""
        for stream in list(self._streams):
            stream.close()
        self._descriptions.close()

    def _replicas(self) -> dict[str, Replica]:
        uses_grpcio = self._options.transport == "grpcio"
        return resolve(self._targets, self._options.security, self._id, uses_grpcio=uses_grpcio)


def _first_of(answers: "Mapping[Future[Description], str]", until: float) -> dict[str, Description]:
    """Descriptions by target, in the order in which they came: the first, if it comes before ``until``, and those that
    come soon after. Raises what a replica said that is no reason to ask again."""
    started = time.monotonic()
    found: dict[str, Description] = {}
    pending = set(answers)
    while pending and (left_s := until - time.monotonic()) > 0:
        done, pending = wait(pending, left_s, FIRST_COMPLETED)
        for answer in done:
            error = answer.exception()
            if error is None:
                if not found:  # a machine that is busy takes longer over the others too
                    until = time.monotonic() + max(_COMPANY_S, time.monotonic() - started)
                found[answers[answer]] = answer.result()
            elif not isinstance(error, OverloadedError | ServiceUnavailableError):
                raise error
    return found
