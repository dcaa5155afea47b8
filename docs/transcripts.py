"""Write docs/commands.md: what each command prints on a terminal of 80 columns, as it does here.

    python docs/transcripts.py

Trains a small network twice, about a minute on a laptop.
"""

import os
import shlex
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from textwrap import fill

from dynamicblocks.cli.main import COMMANDS, main

TEXT = """# The commands, as they answer

Written by `python docs/transcripts.py`, at 80 columns; times are those of one machine.

Output that goes through a pipe or into a file has a line for each epoch, written at once, and no bars; on a terminal
bars stand below these lines for whatever takes long. Tables are never cut: where the terminal is too narrow for one,
each of its rows takes several lines. `--quiet` prints errors and the last line alone. Errors are one line on the
standard error: exit code 2 for what was written, 1 for what went wrong; 130 and 143 after a signal.
"""

# What each is for, and the command.
SHOWN = (
    (
        "Train",
        "The table at the end takes at most a third of the evaluations of the training, counted, so that equal "
        "commands print equal tables; `--table full` shows all of it, `--table none` nothing.",
        "train --model.name dynamicnet --model.widths 8 16 --epochs 6 --run mine",
    ),
    (
        "Figures elsewhere",
        "`--logger` takes `tensorboard`, `csv` and `wandb` (extras of those names), one or several. Files lie in the "
        "run's folder (`tensorboard --logdir runs`): figures of each epoch, and the loss of every tenth step, read "
        "where the device is waited for in any case. A run that is resumed goes on with them.",
        "train --model.name resnet --model.depth 8 --model.unit post --epochs 2 --run plain --logger csv --quiet",
    ),
    (
        "Several seeds",
        "Each seed has a run of its own, `NAME/seed-0` and so on; seeds that are finished are not trained again.",
        "train --model.name dynamicnet --model.widths [4] --epochs 2 --run twice --seeds 0 1 --table none",
    ),
    (
        "Evaluate",
        "",
        "evaluate runs/mine --integrator 'dopri5(rtol=0.001, atol=0.0001)'",
    ),
    (
        "The convergence test",
        "",
        "converge runs/mine --beside runs/plain --integrators euler midpoint rk4 --factors 1 2",
    ),
    ("Compress", "", "compress runs/mine --tolerance 2% --integrators euler midpoint"),
    ("Operators", "", "operators runs/mine"),
    ("Predict", "", "predict runs/mine three.png"),
    ("Runs", "", "runs"),
    (
        "Sample",
        "Of what a run has learnt to make: series of a latent ODE, times of events, points of a density.",
        "train --task events --epochs 2 --run happened",
    ),
    ("", "", "sample runs/happened --number 3 --output new.csv"),
    ("", "", "train --task density --epochs 2 --run moved"),
    ("Lists", "", "models"),
    ("", "", "models dynamicnet_small"),
    ("", "", "integrators"),
    ("", "", "methods dopri5"),
    ("Errors", "", "train --scheme rk5"),
    ("", "", "evaluate runs/nothing"),
)

COMPLETION = """
## Completion

`dynamicblocks completion SHELL` prints a script that completes commands, flags and names. It holds the words itself, so
that no key waits for PyTorch; print it again after an update.

```text
bash: dynamicblocks completion bash > ~/.dynamicblocks.bash, and in ~/.bashrc: source ~/.dynamicblocks.bash
zsh:  dynamicblocks completion zsh > ~/.dynamicblocks.zsh, and in ~/.zshrc, behind compinit: source ~/.dynamicblocks.zsh
fish: dynamicblocks completion fish > ~/.config/fish/completions/dynamicblocks.fish
```
"""


def answer(command: str) -> str:
    """What is printed, errors too."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
        main(shlex.split(command))
    return out.getvalue().strip("\n")


def write_digit(path: Path) -> None:
    """The image that is predicted."""
    from PIL import Image
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[3] * 255 / 16).astype("uint8")).save(path)


def transcripts() -> str:
    """The page."""
    parts = [TEXT]
    for title, text, command in SHOWN:
        if command.split()[0] not in COMMANDS:
            continue
        print(f"dynamicblocks {command}", file=sys.stderr)
        if title:
            parts.append(f"## {title}\n")
        if text:
            parts.append(f"{fill(text, 120)}\n")
        parts.append(f"```text\n$ dynamicblocks {command}\n{answer(command)}\n```\n")
    return "\n".join(parts) + COMPLETION


if __name__ == "__main__":
    page = Path(__file__).resolve().parent / "commands.md"
    os.environ["COLUMNS"] = "80"
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_digit(Path("three.png"))
        written = transcripts()
        os.chdir("/")
    page.write_text(written)
