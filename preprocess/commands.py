"""The commands of preprocessing: run, verify, info and sample. Each imports its libraries when it is run."""

from collections.abc import Sequence

from commandline import Command, run_program
from preprocess.config import InfoConfig, RunConfig, SampleConfig, VerifyConfig
from preprocess.errors import PreprocessError


def _run(config: RunConfig) -> int:
    from preprocess.job.run import run as run_job

    return run_job(config)


def _verify(config: VerifyConfig) -> int:
    from preprocess.inspect.verify import verify

    return verify(config)


def _info(config: InfoConfig) -> int:
    from preprocess.inspect.info import info

    return info(config)


def _sample(config: SampleConfig) -> int:
    from preprocess.sample import sample

    return sample(config)


_COMMANDS = (
    Command("run", RunConfig, _run, "turn a data set into a store: small images, labels and exact statistics"),
    Command("verify", VerifyConfig, _verify, "check every byte of a store against its digests"),
    Command("info", InfoConfig, _info, "say what a store holds, in words, numbers or pictures"),
    Command("sample", SampleConfig, _sample, "draw a small labelled data set to try everything with"),
)


def run(argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit code."""
    return run_program(
        "alexnet-preprocess",
        "Offline preprocessing: ImageNet in any of its forms to a store that the loader serves.",
        _COMMANDS,
        argv,
        user_errors=(PreprocessError,),
    )
