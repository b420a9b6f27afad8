"""The command line of tensorflow_model_server: the same names, the same `--name=value`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_NUMBERS: Final = {
    "port": 8500,
    "rest_api_port": 0,
    "rest_api_timeout_in_ms": 30000,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "rest_api_num_threads": 0,
    "grpc_max_threads": 0,
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "model_config_file_poll_wait_seconds": 0,
    "num_request_iterations_for_warmup": 0,
}
_SWITCHES: Final = {
    "enable_batching": False,
    "enable_model_warmup": True,
    "allow_version_labels_for_unavailable_models": False,
    "flush_filesystem_caches": True,
    "enable_serialization_as_tensor_content": False,
    "rest_api_enable_cors_support": False,
    "remove_unused_fields_from_bundle_metagraph": True,
}
_TEXTS: Final = {
    "model_config_file": "",
    "monitoring_config_file": "",
    "batching_parameters_file": "",
    "grpc_channel_arguments": "",
}
_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}


class UsageError(Exception):
    """A flag is unknown or its value isn't one."""


@dataclass(frozen=True)
class Flags:
    """What was said on the command line, and the defaults of the rest."""

    numbers: dict[str, int]
    switches: dict[str, bool]
    texts: dict[str, str]


def parse(arguments: Sequence[str]) -> Flags:
    """Read the command line.

    Raises:
        UsageError: a flag is unknown (the real server only prints that and goes on: a mistake must not go unseen in a
            test) or has a wrong value (where the real one stops, too).
    """
    flags = Flags(dict(_NUMBERS), dict(_SWITCHES), dict(_TEXTS))
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in {*_NUMBERS, *_SWITCHES, *_TEXTS}:
            raise UsageError(f"unknown argument: {argument}")
        _set(flags, name, value if equals else None)
    return flags


def _set(flags: Flags, name: str, value: str | None) -> None:
    if name in flags.switches and (value is None or value in _WORDS):
        flags.switches[name] = value is None or _WORDS[value]
    elif name in flags.numbers and value is not None and value.removeprefix("-").isdecimal():
        flags.numbers[name] = int(value)
    elif name in flags.texts and value is not None:
        flags.texts[name] = value
    else:
        raise UsageError(f"Couldn't interpret value {value} for flag {name}.")
