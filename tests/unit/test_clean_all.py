"""`make clean-all` leaves nothing, whatever is still mounted below the cache."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SCRIPT = """
mkdir -p "$BERTOPS_CACHE/storage/overlay/layer"
mount --bind "$BERTOPS_CACHE/storage/overlay" "$BERTOPS_CACHE/storage/overlay"
mount -t tmpfs layer "$BERTOPS_CACHE/storage/overlay/layer"
exec make clean-all
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts: for root only")
def test_what_buildah_left_mounted_is_no_obstacle(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {**os.environ, "BERTOPS_CACHE": str(cache)}

    # Mounts of its own: a test that fails leaves none on the machine.
    command = ["unshare", "--mount", "sh", "-euc", _SCRIPT]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert not cache.exists()
