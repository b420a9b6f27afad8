"""Probes that run inside a server's container, in bash alone: images have no curl. For `tfserving` and `triton`."""

from collections.abc import Sequence
from typing import Any, Final

_GET: Final = (
    "for path; do exec 3<>/dev/tcp/127.0.0.1/$0 && "
    'printf "GET %s HTTP/1.0\\r\\nConnection: close\\r\\n\\r\\n" "$path" >&3 '
    '&& mapfile -u 3 answer && [[ ${answer[0]} == *" 200 "* ]] || { echo "$path: ${answer[0]:-no answer}"; exit 1; }; '
    "exec 3>&-; done"
)
_COUNT: Final = (
    "want=$1 called=$2 alive=0; shift 2; for stat in /proc/[0-9]*/stat; do "
    'read -r _ name state _ 2>/dev/null <"$stat" && [[ $name == "($called)" && $state != Z ]] && ((++alive)); done; '
    '((alive >= want)) || { echo "$alive of $want processes $called are alive"; exit 1; }; '
)
_GREETING: Final = (
    "exec 3<>/dev/tcp/127.0.0.1/$0 && "
    "printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0' >&3 "
    "&& read -r -N 1 -t 3 -u 3 || { echo 'nobody greets on the gRPC port'; exit 1; }"
)


def answers(port: int, paths: Sequence[str]) -> dict[str, Any]:
    """Every path is answered with 200, one after the other."""
    return {"exec": {"command": ["bash", "-c", _GET, str(port), *paths]}}


def answers_with(port: int, paths: Sequence[str], processes: int, called: str) -> dict[str, Any]:
    """The same, and so many processes are alive beside it.

    Args:
        port: of HTTP.
        paths: to ask for.
        processes: how many there must be at least; a dead one that nobody has reaped doesn't count.
        called: their name as the kernel has it, its first 15 characters.
    """
    return {"exec": {"command": ["bash", "-c", _COUNT + _GET, str(port), str(processes), called, *paths]}}


def greets(port: int) -> dict[str, Any]:
    """A gRPC server says its HTTP/2 settings to who connects; a frozen one doesn't, though the kernel lets them in."""
    return {"exec": {"command": ["bash", "-c", _GREETING, str(port)]}}
