"""What each of the commands of preprocessing does: run, verify, info and sample."""

from collections.abc import Sequence

from commandline import Command, run_program
from preprocess.config import InfoConfig, RunConfig, SampleConfig, VerifyConfig
from preprocess.errors import PreprocessError
from preprocess.inspect.info import info
from preprocess.inspect.verify import verify
from preprocess.job.run import run as run_job
from preprocess.sample import sample

_COMMANDS = (
    Command("run", RunConfig, run_job, "turn a data set into a store: small images, labels and exact statistics"),
    Command("verify", VerifyConfig, verify, "check every byte of a store against its digests"),
    Command("info", InfoConfig, info, "say what a store holds, in words, numbers or pictures"),
    Command("sample", SampleConfig, sample, "draw a small labelled data set to try everything with"),
)


def run(argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit code."""
    return run_program(
        "preprocess",
        "Offline preprocessing: ImageNet in any of its forms to a store that the loader serves.",
        _COMMANDS,
        argv,
        user_errors=(PreprocessError,),
    )
