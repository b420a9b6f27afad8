"""What Dockerfiles must have in common, and mustn't."""

import re

from images import catalog

TEXTS = {name: (catalog.TOP / path).read_text("utf-8") for name, path in catalog.DOCKERFILES.items()}


def test_apt_folders_that_images_share_are_locked() -> None:
    """apt takes a lock of its own there, and a second build at once would fail."""
    mounts = [line for text in TEXTS.values() for line in re.findall(r"--mount=\S+target=/var/\S*/apt\S*", text)]
    assert len(mounts) > len(TEXTS)
    assert [one for one in mounts if "id=" not in one or "sharing=locked" not in one] == []


def test_images_with_debians_pytorch_share_its_layer() -> None:
    """A gigabyte that is built, stored, pulled and unpacked once: all instructions up to it are the same."""
    finals = [TEXTS[name].rpartition("\nFROM ")[2] for name in catalog.ON_TORCH]
    starts = {"\n".join(line for line in final.splitlines() if not line.startswith("#")) for final in finals}
    until = {start[: start.index("\nRUN", start.index("python3-torch"))] for start in starts}
    assert len(until) == 1
    assert {name for name, text in TEXTS.items() if "python3-torch" in text} == {*catalog.ON_TORCH}


def test_fp32_is_fp32_where_torchscript_is_traced_and_judged_on_gpus() -> None:
    """NVIDIA's PyTorch images switch TF32 on, whose products keep 10 bits."""
    written = dict(re.findall(r"(\w+)=(\S+)", (catalog.TOP / "build_jobs/pytorch-gpu.Dockerfile").read_text("utf-8")))
    assert (written.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"), written.get("NVIDIA_TF32_OVERRIDE")) == ("0", "0")
