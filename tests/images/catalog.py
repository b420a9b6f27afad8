"""The product's images: their Dockerfiles, and the name each has for the files as they are now.

`__main__`, `build` and `run` ask it. It reads the source tree and starts nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from images import debian, recipe
from images.cache import Cache
from images.errors import ImagesError

TOP: Final = Path(__file__).parents[2]
"""The source tree; every Dockerfile's build context."""

DOCKERFILES: Final = {
    "operator": "operator/Dockerfile",
    "pytorch": "build_jobs/pytorch.Dockerfile",
    "tensorflow": "build_jobs/tensorflow.Dockerfile",
    "tfserving-standin": "tests/support/tfserving_standin/Dockerfile",
    "torchserve": "build_jobs/torchserve.Dockerfile",
    "triton-cpu": "build_jobs/triton-cpu.Dockerfile",
    "triton-cpu-torch": "build_jobs/triton-cpu-torch.Dockerfile",
    "analyzer": "build_jobs/analyzer.Dockerfile",
}
BASIC: Final = ("operator", "pytorch", "triton-cpu")
"""Images without which nothing works; the others belong to one server or one kind of source."""
FOR_SERVER: Final = {
    "triton": (),
    "tfserving": ("tensorflow", "tfserving-standin"),
    "torchserve": ("torchserve",),
}
"""Server -> images that it takes beside the basic ones."""
PARENTS: Final = {"tfserving-standin": "tensorflow"}
"""Images that start from another one of ours: their Dockerfile says `FROM ${PARENT}`."""
ON_TORCH: Final = ("pytorch", "torchserve", "triton-cpu-torch")
"""Images whose first layers, with Debian's PyTorch in them, are one and the same."""
_PARENT: Final = "${PARENT}"
_REQUIREMENTS: Final = "requirements.txt"
_REPOSITORY: Final = "localhost/bert-operator"


@dataclass(frozen=True)
class Image:
    """One image, named by its content."""

    name: str
    dockerfile: str
    bases: tuple[str, ...]
    digest: str
    toolchain_digest: str
    """The same without our own sources: what a command needs that brings newer sources along."""
    parent: "Image | None" = None
    """The image of ours that it starts from."""

    @property
    def tag(self) -> str:
        """The reference that pods use."""
        return f"{_REPOSITORY}/{self.name}:{self.digest}"

    @property
    def toolchain_tag(self) -> str:
        """The newest image with this toolchain, whatever sources it carries."""
        return f"{_REPOSITORY}/{self.name}:toolchain-{self.toolchain_digest}"

    @property
    def build_arguments(self) -> list[str]:
        """Options of `docker build` and `buildah bud` that name the image it starts from."""
        return [f"--build-arg=PARENT={self.parent.tag}"] if self.parent else []

    @property
    def lane(self) -> str:
        """Images of one lane share layers and apt's folders: they are built one after the other."""
        return "torch" if self.name in ON_TORCH else "python"

    def archive(self, cache: Cache) -> Path:
        """The OCI archive that carries the image; it may not be there yet."""
        return cache.root / "images" / f"{self.name}-{self.digest}.tar"


def image(name: str, top: Path = TOP) -> Image:
    """The image as the files are now."""
    if name not in DOCKERFILES:
        raise ImagesError(f"no image is called {name!r}; there are {', '.join(DOCKERFILES)}")
    dockerfile = DOCKERFILES[name]
    path = top / dockerfile
    if not path.is_file():
        raise ImagesError(f"{dockerfile} is missing in {top}")
    found = recipe.parse(path.read_text())
    ignore = [".dockerignore"] if (top / ".dockerignore").is_file() else []
    toolchain = [source for source in found.sources if source.endswith(_REQUIREMENTS)]
    parent = image(PARENTS[name], top) if name in PARENTS else None
    bases = [base for base in found.bases if base != _PARENT] + list(parent.bases if parent else ())
    outside = [*bases, debian.RECIPE_HASH]
    return Image(
        name=name,
        dockerfile=dockerfile,
        bases=tuple(dict.fromkeys(bases)),
        digest=recipe.content_hash(
            top, [dockerfile, *ignore, *found.sources], [*outside, *([parent.digest] if parent else [])]
        ),
        toolchain_digest=recipe.content_hash(
            top, [dockerfile, *toolchain], [*outside, *([parent.toolchain_digest] if parent else [])]
        ),
        parent=parent,
    )
