"""Compress a trained run and keep the result.

Example: python experiments/compression.py runs/cifar10_rk4_8 --data_dir data
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

from common import RESULTS, write

from dynamicblocks.cli.main import main as command
from dynamicblocks.training.environment import environment


def compressed(run: Path, *flags: str) -> dict:
    """The result of ``dynamicblocks compress`` on a run; the smaller network is not kept."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "small"
        command(["compress", str(run), *flags, "--to", str(target)])
        found = json.loads((target / "result.json").read_text())
    found["compressed_from"] = run.name
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--result", type=Path, default=RESULTS / "cifar10_compression.json", help="file of the result")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the result")
    parser.add_argument("--data_dir", help="local copy of the data; by default where the run had it")
    options, flags = parser.parse_known_args()
    where = [] if options.data_dir is None else ["--data_dir", options.data_dir]
    found = compressed(options.run, *flags, *where)
    found["data"] = found["data"].replace(f"local copy in {options.data_dir}", "local copy in the official layout")
    record = {"date": f"{date.today()}", "note": options.note, **environment(), "flags": flags, "compression": found}
    write(options.result, record)
    print(f"result in {options.result}")


if __name__ == "__main__":
    main()
