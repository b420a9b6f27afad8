"""`python3 -m stages.prerequisites`: install what a bare Debian machine lacks for the recipes, in one go."""

import sys

from images import engine
from localcluster import prerequisites
from localcluster.errors import ClusterError


def main() -> int:
    """Install it, then check all of it."""
    try:
        prerequisites.install(also=engine.missing_packages())
        prerequisites.check_build()
        prerequisites.check_run(with_nodes=True)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
