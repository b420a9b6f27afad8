"""The probe of a TorchServe pod: exit code 0 if every worker of every model named has loaded it.

TorchServe's own /ping looks at default versions only and takes a worker that is still loading, or failing again and
again, for a healthy one. The management API tells the truth and answers inside the pod only. Standard library only.
"""

import http.client
import json
import sys
from collections.abc import Sequence
from typing import Final

PORT: Final = 8081
"""Of the management API."""
_SECONDS: Final = 4
_OK: Final = 200


def main(models: Sequence[str]) -> int:
    """Ask for each NAME/VERSION; says on standard output what is missing."""
    client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=_SECONDS)
    try:
        missing = [found for model in models if (found := _missing(client, model))]
    except (OSError, http.client.HTTPException) as error:
        missing = [f"the management API doesn't answer: {error}"]
    sys.stdout.write("".join(f"{line}\n" for line in missing))
    return 1 if missing else 0


def _missing(client: http.client.HTTPConnection, model: str) -> str:
    client.request("GET", f"/models/{model}")
    reply = client.getresponse()
    text = reply.read()
    if reply.status != _OK:
        return f"{model} isn't loaded: HTTP {reply.status}"
    about = json.loads(text)[0]
    ready = sum(worker["status"] == "READY" for worker in about["workers"])
    return "" if ready >= max(1, int(about["minWorkers"])) else f"{model}: {ready} of {about['minWorkers']} workers"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
