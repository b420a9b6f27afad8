"""The command line: `python3 -m localcluster COMMAND`. Parses, calls `cluster.py`, prints; decides nothing."""

import argparse
import os
import sys
from pathlib import Path

from localcluster import cluster, images, prerequisites, store
from localcluster.binaries import built
from localcluster.config import DEFAULT_NAME, Options, cache_folder
from localcluster.errors import ClusterError


def main() -> int:
    """Run one command."""
    # Some shells of root's leave these out, and most of what a node starts is there.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    arguments = _parser().parse_args()
    try:
        result: int = arguments.run(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what a shell reports; the next `up` or `down` clears what was half done
    return result


def _up(arguments: argparse.Namespace) -> int:
    options = Options(
        arguments.name,
        arguments.nodes,
        control_plane_only=arguments.control_plane_only,
        audit=arguments.audit,
        plain_controllers=arguments.plain_controllers,
    )
    print(cluster.up(options, cache_folder()).folders.kubeconfig)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    cache = cache_folder()
    for name in cluster.names(cache) if arguments.all else [Options(arguments.name).name]:
        cluster.down(name, cache)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    lines = cluster.status(cluster.find(arguments.name, cache_folder()))
    print(f"{'COMPONENT':<28}{'PID':<10}{'HEALTH':<11}LOG")
    for line in lines:
        print(f"{line.name:<28}{line.pid:<10}{line.health:<11}{line.log}")
    return 0 if all(line.health == "healthy" for line in lines) else 1


def _load_image(arguments: argparse.Namespace) -> int:
    images.load(cluster.find(arguments.name, cache_folder()), arguments.archives)
    return 0


def _keep_images(arguments: argparse.Namespace) -> int:
    store.keep(cache_folder(), arguments.archives)
    return 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(cluster.find(arguments.name, cache_folder()).folders.kubeconfig)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise ClusterError("exec: which command? For example: exec -- kubectl get nodes")
    cache = cache_folder()
    os.environ["KUBECONFIG"] = str(cluster.find(arguments.name, cache).folders.kubeconfig)
    os.environ["PATH"] = os.pathsep.join([str(built(cache)), os.environ["PATH"]])
    try:
        os.execvp(command[0], command)  # noqa: S606 - it takes this process's place
    except FileNotFoundError as error:
        msg = f"exec: there is no command {command[0]}"
        raise ClusterError(msg) from error


def _build_binaries(_: argparse.Namespace) -> int:
    print(built(cache_folder()))
    return 0


def _prerequisites(arguments: argparse.Namespace) -> int:
    if arguments.install:
        prerequisites.install()
    prerequisites.check_build()
    prerequisites.check_run(with_nodes=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localcluster", description="A real Kubernetes on a bare Linux machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=DEFAULT_NAME, help="which cluster (default: %(default)s)")

    up = commands.add_parser(
        "up", parents=[named], help="start a cluster, or find that it is up; prints its kubeconfig"
    )
    up.add_argument("--nodes", type=int, default=1, help="how many nodes (default: %(default)s)")
    up.add_argument("--control-plane-only", action="store_true", help="no node: for tests of API objects alone")
    up.add_argument(
        "--audit", action="store_true", help="log who of the service accounts asked what, in logs/audit.log"
    )
    up.add_argument(
        "--plain-controllers",
        action="store_true",
        help="with --control-plane-only: controllers no faster than as shipped",
    )
    up.set_defaults(run=_up)

    down = commands.add_parser("down", parents=[named], help="remove everything of a cluster but its logs")
    down.add_argument("--all", action="store_true", help="every cluster")
    down.set_defaults(run=_down)

    several = argparse.ArgumentParser(add_help=False)
    several.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE")
    load = commands.add_parser("load-image", parents=[named, several], help="import OCI archives into every node")
    load.set_defaults(run=_load_image)
    keep = commands.add_parser(
        "keep-images",
        parents=[several],
        help="unpack OCI archives for the nodes of later clusters, which start with them",
    )
    keep.set_defaults(run=_keep_images)

    run = commands.add_parser(
        "exec", parents=[named], help="run a command with KUBECONFIG set and kubectl and helm on PATH"
    )
    run.add_argument("command", nargs=argparse.REMAINDER)
    run.set_defaults(run=_exec)

    for name, function, text in (
        ("status", _status, "each component's pid, health and log"),
        ("kubeconfig", _kubeconfig, "print the kubeconfig's path"),
    ):
        commands.add_parser(name, parents=[named], help=text).set_defaults(run=function)
    commands.add_parser("build-binaries", help="only build; prints their folder").set_defaults(run=_build_binaries)
    check = commands.add_parser("prerequisites", help="check what the machine must bring")
    check.add_argument("--install", action="store_true", help="install what is missing with apt-get")
    check.set_defaults(run=_prerequisites)
    return parser


if __name__ == "__main__":
    sys.exit(main())
