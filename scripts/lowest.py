"""Print constraints with the lowest versions that pyproject.toml allows of what nnblip itself needs.

The tools of its tests stay at the versions of constraints.txt.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lowest(requirements: list[str]) -> dict[str, str]:
    """{name: version}, from lines such as "numpy>=2,<3"."""
    found = {}
    for line in requirements:
        name, version = re.match(r"([\w.-]+)(?:\[.*\])?[>=]=([\w.]+)", line).groups()  # type: ignore[union-attr]
        found[name.lower()] = version
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    floors = lowest([*project["dependencies"], *extras["datasets"], *extras["table"]])
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        if line.partition("==")[0].lower() not in floors and not line.startswith("#"):
            print(line)
    for name, version in floors.items():
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
