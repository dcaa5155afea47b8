"""``dynamicblocks operators``."""

from argparse import Namespace
from collections.abc import Mapping

from dynamicblocks.analysis import Operators, TwistOperators, draw_fields, draw_operators, network_operators
from dynamicblocks.analysis.operators import plain_part
from dynamicblocks.cli import checks
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.console import Bars, add_quiet_argument, make_console, say
from dynamicblocks.cli.loading import add_task_argument, read, refusal, say_where
from dynamicblocks.cli.table import table
from dynamicblocks.twisting import twists

USAGE = "dynamicblocks operators RUN [--pairs N] [--data_dir DIR]"
DESCRIPTION = """Take the 3x3 kernels of a run apart into differential operators: 1, dx, dy, dxx, dxy, dyy, ...

Prints what share the operators of each order have in each convolution and, of twisted ones, the strength of the twist
and how much of its vector field is rotation and scaling. Writes operators.png into the folder of the run and, if a
convolution is twisted, fields.png with the fields of the pairs of channels that are twisted most.

Example: dynamicblocks operators runs/MINE
         dynamicblocks operators runs/MINE --pairs 12"""


def add_arguments(parser: Arguments) -> None:
    """The run, and how much is drawn of it."""
    parser.add_argument("run", type=str, help="the folder of a run", check=checks.run_folder)
    parser.add_argument(
        "--pairs", type=int, default=6, help="pairs of channels whose vector fields are drawn", check=checks.count()
    )
    add_task_argument(parser)
    parser.add_argument("--data_dir", help="local copy of the data; else the run's own")
    add_quiet_argument(parser, "the files that were written")


def run(options: Namespace) -> None:
    """Print the table and draw."""
    console = make_console(options)
    run = read(options, options.run, Bars(console))
    folder, net = run.folder, run.net
    found = network_operators(net)
    strengths = {each.name: each.strength for each in twists(net).twisted}
    say(console, f"{_table(str(folder.path), found, strengths)}\n")
    drawn = [folder.path / "operators.png"]
    refused = refusal(lambda: draw_operators(net, drawn[0]))
    if any(isinstance(each, TwistOperators) for each in found.values()):
        drawn.append(folder.path / "fields.png")
        refused = refused or refusal(lambda: draw_fields(net, drawn[1], pairs=options.pairs))
    say_where(drawn, refused)


def _table(title: str, found: Mapping[str, Operators | TwistOperators], strengths: Mapping[str, float]) -> str:
    head = ["convolution", "kernels", "order 0", "1", "2", "3 and 4"]
    if strengths:
        head += ["twist: strength", "rotation", "scaling"]
    rows = []
    for name, each in found.items():
        plain = plain_part(each)
        zero, one, two, *rest = plain.order_shares
        cells = [f"{share:.1%}" for share in (zero, one, two, sum(rest))]
        if isinstance(each, TwistOperators):
            shares = each.field_shares
            cells += [f"{strengths[name]:.3f}", f"{shares['rotation']:.1%}", f"{shares['scaling']:.1%}"]
        out, into = plain.coefficients.shape[:2]
        row = [name, f"{out} x {into}", *cells]
        rows.append(row + [""] * (len(head) - len(row)))
    return table(f"{title}, shares of the squared coefficients", head, rows, text=1)
