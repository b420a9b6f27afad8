"""Images are built at once, so what they share while building must bear it."""

import re
from itertools import combinations

from images import catalog


def test_images_built_at_once_share_no_apt_folder() -> None:
    """apt takes a lock in it: the second build would fail, now and then."""
    folders = {
        name: set(re.findall(r"id=([a-z-]+),target=/var/(?:cache|lib)/apt", (catalog.TOP / path).read_text("utf-8")))
        for name, path in catalog.DOCKERFILES.items()
        if name not in catalog.PARENTS
    }
    assert all(folders.values())
    assert [(one, other) for one, other in combinations(folders, 2) if folders[one] & folders[other]] == []


def test_fp32_is_fp32_where_torchscript_is_traced_and_judged_on_gpus() -> None:
    """NVIDIA's PyTorch images switch TF32 on, whose products keep 10 bits."""
    written = dict(re.findall(r"(\w+)=(\S+)", (catalog.TOP / "build_jobs/pytorch-gpu.Dockerfile").read_text("utf-8")))
    assert (written.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"), written.get("NVIDIA_TF32_OVERRIDE")) == ("0", "0")
