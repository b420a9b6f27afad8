"""The command line: every command, option and word of help. `docs/bertctl.md` shows the same; a test compares."""

import argparse
from typing import Any, Final

import bert_operator

_ENDING: Final = "Exit codes: 0 done; 1 refused, not found or failed, standard error says why; 2 wrong usage."
_DIRECT: Final = "HOST:PORT"


class _Help(argparse.RawDescriptionHelpFormatter):
    """The same width everywhere, so that the documentation can show it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def parser(prog: str) -> argparse.ArgumentParser:
    """Everything `bertctl` understands.

    Args:
        prog: how it was called: `bertctl`, or `kubectl bert` as a plugin.
    """
    top = _parser(argparse.ArgumentParser, prog=prog, description="BERT on Kubernetes, from the command line.")
    top.add_argument("--version", action="version", version=f"bertctl {bert_operator.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _validate(commands)
    _render(commands)
    _status(commands)
    _predict(commands)
    _tuning(commands)
    _artifacts(commands)
    return top


def _parser(make: Any, *positional: str, description: str, **more: Any) -> argparse.ArgumentParser:  # noqa: ANN401
    made: argparse.ArgumentParser = make(
        *positional, description=description, epilog=_ENDING, formatter_class=_Help, allow_abbrev=False, **more
    )
    return made


def _command(commands: Any, name: str, text: str, description: str, module: str = "") -> argparse.ArgumentParser:  # noqa: ANN401
    made = _parser(commands.add_parser, name, help=text, description=description)
    made.set_defaults(module=module or name)
    return made


def _validate(commands: Any) -> None:  # noqa: ANN401 - argparse keeps its type private
    made = _command(
        commands,
        "validate",
        "check BertDeployment files without a cluster",
        "Checks BertDeployments as the API server and the operator would: fields, bounds and rules. Each fault is one\n"
        "line: file, document, field, what was found, what to write instead. Other kinds are skipped with a note.",
    )
    made.add_argument("files", nargs="+", metavar="FILE", help="YAML file, or - for standard input")
    made.add_argument(
        "--settings",
        metavar="FILE",
        help="also check against an installation's settings: its settings.yaml, or the ConfigMap that holds it",
    )


def _render(commands: Any) -> None:  # noqa: ANN401
    made = _command(
        commands,
        "render",
        "print every manifest the operator would make",
        "Prints claim, build Jobs, records, ConfigMap, Deployment, Service of each BertDeployment in a file as YAML,\n"
        "made by the operator's own code, without a cluster. What was not built yet is a marked placeholder.",
    )
    made.add_argument("file", metavar="FILE", help="YAML file, or - for standard input")
    made.add_argument(
        "--settings",
        metavar="FILE",
        help="an installation's settings: its settings.yaml, or the ConfigMap that holds it; without it images are "
        "placeholders",
    )
    made.add_argument(
        "--artifact",
        metavar="FILE",
        help="BertArtifacts as `kubectl get bertartifact -o yaml` prints them: real sizes, tensors and digests",
    )
    made.add_argument("-n", "--namespace", metavar="NS", default="", help="namespace, where the file names none")


def _status(commands: Any) -> None:  # noqa: ANN401
    made = _command(
        commands,
        "status",
        "one screen about a BertDeployment",
        "Shows where a BertDeployment stands: stage, conditions and the next step, models and versions with their\n"
        "artifact, revision, precision and fidelity, pods and what verified them, the running build's step and last\n"
        "log line, and the tuning plan. Only reads.",
    )
    _named(made)
    made.add_argument("-o", "--output", choices=["text", "json"], default="text", help="for people or for machines")
    made.add_argument("-w", "--watch", action="store_true", help="show it again whenever it changes, until Ctrl-C")


def _predict(commands: Any) -> None:  # noqa: ANN401
    made = _command(
        commands,
        "predict",
        "ask an endpoint",
        "Sends texts or tensors to a BertDeployment's server, through `kubectl port-forward` or to --address, and\n"
        "shows labels and scores, tags, answers, filled masks, how alike the sentences are, or the first values.\n"
        "Texts become token ids here; TorchServe does that itself.",
    )
    _named(made)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", action="append", metavar="TEXT", help="a sentence; give it again for more of them")
    what.add_argument("--json", metavar="FILE", help='tensors: {"input_ids": [[101, 102]], ...}; - is standard input')
    made.add_argument(
        "--text-pair", metavar="TEXT", help="second text of each --text, e.g. where a question's answer stands"
    )
    made.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer.json of the model, or the folder that holds it; needed by --text"
    )
    made.add_argument("--model", metavar="M", help="which model; needed if it serves several")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--version", metavar="V", type=int, help="which version; unset: the default one")
    which.add_argument("--label", metavar="L", help="which version, by its label (TF Serving)")
    made.add_argument("--address", metavar=_DIRECT, help="ask there; no port-forward is made")
    made.add_argument(
        "--server",
        choices=["triton", "tfserving", "torchserve"],
        help="with --address: what answers there; then no cluster is read and NAME is the model's name",
    )
    made.add_argument("-o", "--output", choices=["text", "json"], default="text", help="for people or for machines")


def _tuning(commands: Any) -> None:  # noqa: ANN401
    tuning = _parser(
        commands.add_parser, "tuning", help="what was measured", description="What profile Jobs measured and planned."
    )
    made = _command(
        tuning.add_subparsers(metavar="COMMAND", required=True),
        "report",
        "write the measured plan as an HTML page",
        "Writes one HTML page with the throughput-latency plot of what was measured, and the plan made from it.",
        module="tuning",
    )
    _named(made)
    made.add_argument("-o", "--output", metavar="FILE", default="-", help="where to write; - is standard output")
    made.add_argument(
        "--artifact",
        metavar="FILE",
        help="the BertDeployment and its BertArtifacts as `kubectl get bertd,berta -o yaml` prints them, instead of a "
        "cluster",
    )


def _artifacts(commands: Any) -> None:  # noqa: ANN401
    group = _parser(
        commands.add_parser,
        "artifacts",
        help="what is in the stores",
        description="What was built and lies on the claims of a namespace.",
    ).add_subparsers(metavar="COMMAND", required=True)
    listing = _artifact_command(
        group,
        "ls",
        "list what was built",
        "Lists the artifacts of a namespace with model, source, size, age, and who uses them. Only reads.",
    )
    listing.add_argument("-o", "--output", choices=["text", "json"], default="text", help="for people or for machines")
    verify = _artifact_command(
        group,
        "verify",
        "read every byte again",
        "Reads every file of artifacts and compares it with what was published, in a short Job that mounts the claim\n"
        "read-only. Shows the Job's log. Exit code 1 if anything is damaged.",
    )
    remove = _artifact_command(
        group,
        "rm",
        "remove what nothing uses",
        "Removes artifacts and their records, in a short Job that mounts the claim. What a BertDeployment, a\n"
        "Deployment, ReplicaSet, pod or Job refers to is refused; nothing forces it.",
    )
    for made, words in ((verify, "BertArtifacts; unset: all of the namespace"), (remove, "BertArtifacts to remove")):
        made.add_argument("names", nargs="*", metavar="NAME", help=words)
        made.add_argument("--image", metavar="IMAGE", help="the operator's image; unset: that of the serving pods")
    remove.add_argument("--unused", action="store_true", help="all that nothing refers to")
    remove.add_argument(
        "--older-than", metavar="AGE", default="0s", help="with --unused: only what was built so long ago, such as 7d"
    )
    remove.add_argument("--dry-run", action="store_true", help="show what would be removed")


def _artifact_command(group: Any, name: str, text: str, description: str) -> argparse.ArgumentParser:  # noqa: ANN401
    made = _command(group, name, text, description, module="artifacts")
    made.set_defaults(action=name)
    _where(made)
    return made


def _named(made: argparse.ArgumentParser) -> None:
    made.add_argument("name", metavar="NAME", help="the BertDeployment")
    _where(made)


def _where(made: argparse.ArgumentParser) -> None:
    made.add_argument("-n", "--namespace", metavar="NS", default="", help="its namespace; unset: the context's")
    made.add_argument("--context", metavar="C", help="context of the kubeconfig; unset: the current one")
    made.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig; unset: as kubectl finds it")
