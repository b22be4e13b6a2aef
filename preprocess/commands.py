"""The commands of preprocessing: run, verify, info and sample. What runs each is imported when it is run."""

from collections.abc import Sequence

from commandline import Command, run_program
from preprocess.config import InfoConfig, RunConfig, SampleConfig, VerifyConfig
from preprocess.errors import PreprocessError

COMMANDS = (
    Command(
        "run",
        RunConfig,
        "preprocess.job.run:run",
        "turn a data set into a store: small images, labels and exact statistics",
    ),
    Command(
        "verify", VerifyConfig, "preprocess.inspect.verify:verify", "check every byte of a store against its digests"
    ),
    Command(
        "info", InfoConfig, "preprocess.inspect.info:info", "say what a store holds, in words, numbers or pictures"
    ),
    Command(
        "sample", SampleConfig, "preprocess.sample:sample", "draw a small labelled data set to try everything with"
    ),
)


def run(argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit code."""
    return run_program(
        "alexnet-preprocess",
        "Offline preprocessing: ImageNet in any of its forms to a store that the loader serves.",
        COMMANDS,
        argv,
        user_errors=(PreprocessError,),
    )
