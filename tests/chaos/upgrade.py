"""R12: the operator is upgraded under many live resources. `python3 -m chaos.upgrade` prints one JSON line.

`tests/cluster/test_upgrade.py` does the same with a few.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from chaos.lab import CLUSTER, control_plane
from support.kube_api import KubeApi
from support.operator_process import install_crds
from support.upgrade import upgrade


def main() -> int:
    """Exit status: 1 if the upgrade disturbed anything."""
    parser = argparse.ArgumentParser(prog="python3 -m chaos.upgrade", description=__doc__)
    parser.add_argument("--resources", type=int, default=50, help="live BertDeployments (default: %(default)s)")
    parser.add_argument("--cluster", default=CLUSTER, help="localcluster's name (default: %(default)s)")
    chosen = parser.parse_args()
    began, namespace = time.monotonic(), f"upgrade-{uuid4().hex[:8]}"
    with (
        control_plane(chosen.cluster) as kubeconfig,
        KubeApi(kubeconfig) as api,
        tempfile.TemporaryDirectory() as scratch,
    ):
        install_crds(api)
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            done = upgrade(api, namespace, Path(scratch), resources=chosen.resources)
        finally:
            api.request("DELETE", f"/api/v1/namespaces/{namespace}")
    disturbed = done.disturbed()
    figures = {
        "failed": int(bool(disturbed)),
        "problems": disturbed,
        "resources": chosen.resources,
        "pod_template_changes": sum("Deployment" in what for what in disturbed),
        "pods_replaced": len({*done.before.pods.items()} - {*done.after.pods.items()}),
        "writes": done.writes,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps({"R12": figures}))
    return 1 if disturbed else 0


if __name__ == "__main__":
    sys.exit(main())
