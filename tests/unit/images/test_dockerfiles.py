"""What Dockerfiles must have in common, and mustn't."""

import re
from itertools import combinations

from images import build, catalog

TEXTS = {name: (catalog.TOP / path).read_text("utf-8") for name, path in catalog.DOCKERFILES.items()}


def apt_lines(text: str) -> dict[str, set[str]]:
    """Folder of apt that stays between builds -> the instructions that use it."""
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^RUN (?:.*\\\n)*.*", text, re.MULTILINE):
        for folder in re.findall(r"id=([a-z-]+),target=/var/(?:cache|lib)/apt", line):
            found.setdefault(folder, set()).add(line)
    return found


def test_images_built_at_once_share_no_apt_folder() -> None:
    """apt takes a lock in it: the second build would fail, now and then."""
    every = [catalog.image(name) for name in catalog.DOCKERFILES]
    folders = [{folder for one in lane for folder in apt_lines(TEXTS[one.name])} for lane in build.lanes(every)]
    assert all(folders)
    assert [one & other for one, other in combinations(folders, 2) if one & other] == []


def test_stages_built_at_once_share_no_apt_folder() -> None:
    """As above; Docker builds the stages of one Dockerfile at once, but instructions that are the same only once."""
    for name, text in TEXTS.items():
        stages = [apt_lines(stage) for stage in text.split("\nFROM ")[1:]]
        for one, other in combinations(stages, 2):
            shared = {folder for folder in one.keys() & other.keys() if one[folder] != other[folder]}
            assert shared == set(), name


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
