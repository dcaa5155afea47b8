"""Write the table of experiments/README.md from published.yaml and the results that are there.

Example: python experiments/report.py
"""

import json

import yaml
from common import HERE, put_table

BEGIN, END = "<!-- table: python experiments/report.py -->", "<!-- end of table -->"
HEAD = """| configuration | model | units | refined at | integrator | published: weights | test % | min | \
here: weights | test % | min | seed, hardware, data |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(name: str, published: list) -> str:
    """What was published and what was measured here."""
    model, data, units, refined, integrator, weights, accuracy, minutes, *mark = published
    told = [
        "-" if weights is None else f"{weights} M",
        "-" if accuracy is None else " ".join([f"{accuracy:.2f}", *(f"({word})" for word in mark)]),
        "-" if minutes is None else f"{minutes}",
    ]
    path = HERE / "results" / f"{name}.json"
    ours = ["not measured", "not measured", "not measured", ""]
    if path.exists():
        result = json.loads(path.read_text())
        machine = result["hardware"]
        where = ", ".join(machine["gpus"]) or f"{machine['processor']}, {machine['torch_threads']} threads"
        note = f"; {result['note']}" if result.get("note") else ""
        ours = [
            f"{result['weights']:,}",
            f"**{100 * result['test_accuracy']:.2f}**",
            f"{result['training_minutes']:.1f}",
            f"seed {result['seed']}; {where}{note}; {result['data']}",
        ]
    link = f"[{name}](configs/{name}.yaml)"
    return "| " + " | ".join([link, f"{model}, {data}", units, refined, integrator, *told, *ours]) + " |"


def main() -> None:
    published = yaml.safe_load((HERE / "published.yaml").read_text())
    path = HERE / "README.md"
    put_table("\n".join([HEAD, *(row(name, known) for name, known in published.items())]), [path], BEGIN, END)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
