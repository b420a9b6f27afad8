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
