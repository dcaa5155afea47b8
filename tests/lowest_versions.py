"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: ``pip install -c lowest.txt ...``."""

import re
import tomllib
from pathlib import Path

LOWEST = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?>=(?P<version>[\w.]+)")


def lowest(project: dict) -> list[str]:
    """``name==version`` for each requirement with a lower bound, of the package and of its extras."""
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    found = [LOWEST.fullmatch(each.partition(";")[0].strip()) for group in groups for each in group]
    return sorted({f"{each['name']}=={each['version']}" for each in found if each})


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    print(*lowest(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]), sep="\n")
