"""``dynamicblocks models``, ``dynamicblocks integrators`` and ``dynamicblocks methods``."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.table import folded, table

WRAPPED = "reversible('NAME')"
EXPLAINED = "Explicit Runge-Kutta methods with steps that can be taken back"


class ModelsCommand:
    """Lists networks, or the options of one."""

    USAGE = "dynamicblocks models [NAME]"
    DESCRIPTION = """List the networks with their numbers of weights, or the options of one.

Example: dynamicblocks models resnet20"""

    def add_arguments(self, parser: Arguments) -> None:
        parser.add_argument("name", nargs="?", help="a network, to see its options")

    def run(self, options: Namespace) -> None:
        from dynamicblocks.models import create_model, described_options, list_models
        from dynamicblocks.options import NONE

        if options.name is None:
            rows = []
            with _uncreated_weights():
                for name in list_models():
                    net = create_model(name)
                    rows.append((name, f"{net.num_weights:,}", str(net.evaluations)))
            print(table("Networks (colour images, 10 classes)", ("network", "weights", "evaluations"), rows))
            print("\nOptions of one: dynamicblocks models NAME")
            return
        rows = []
        for name, option in described_options(options.name).items():
            default = "" if option.default is NONE else repr(option.default)
            rows.append((name, default, " ".join(option.help.split())))
        print(table(f"Options of {options.name}", ("option", "default", "what it is"), rows, prose=True))
        print("\nin_channels, num_classes, dims and dense are for create_model; in a training the task decides them.")
        print(f"Use one: dynamicblocks train --model.name {options.name} --model.OPTION VALUE")


class IntegratorsCommand:
    """Lists integrators."""

    USAGE = "dynamicblocks integrators"
    DESCRIPTION = """List the integrators with their orders and costs.

Example: dynamicblocks integrators"""

    def add_arguments(self, parser: Arguments) -> None:
        """It has none."""

    def run(self, options: Namespace) -> None:
        from dynamicblocks.integrators import as_integrator, list_integrators

        rows = []
        for name in list_integrators():
            integrator = as_integrator(name)
            least = "" if integrator.fixed_cost else "at least "
            rows.append((name, str(integrator.order), f"{least}{integrator.evaluations}"))
        rows.append((WRAPPED, "of NAME", "twice those of NAME"))
        print(table("Integrators", ("integrator", "order", "evaluations a step"), rows))
        print("\nUse one: dynamicblocks train --model.integrator NAME")
        print(f"{EXPLAINED}: dynamicblocks train --model.integrator \"reversible('rk4')\"")


class MethodsCommand:
    """Lists the methods of odeint and solve, or the options of one."""

    USAGE = "dynamicblocks methods [NAME]"
    DESCRIPTION = """List the methods of odeint and solve with their orders, or the options of one.

Example: dynamicblocks methods dopri5"""

    def add_arguments(self, parser: Arguments) -> None:
        parser.add_argument("name", nargs="?", help="a method, to see its options")

    def run(self, options: Namespace) -> None:
        from dynamicblocks.integrators import (
            METHODS,
            REVERSIBLE,
            AdaptiveMethod,
            GridMethod,
            as_method,
            other_methods,
        )
        from dynamicblocks.layers.parts import FIELD

        if options.name is not None:
            if options.name == REVERSIBLE:
                line = f"{WRAPPED} takes the options of NAME, and coupling: reversible('rk4', coupling=0.99)"
                print(line)
                return
            method = as_method(options.name)
            print(folded(f"Options of {method.name}: {', '.join(method.options)}"))
            return
        rows = []
        for name, method in METHODS.items():
            order, steps = "", "SciPy's"
            if isinstance(method, (AdaptiveMethod, GridMethod)):
                steps = "as the error allows" if isinstance(method, AdaptiveMethod) else "given"
                # An open one is made for a problem alone.
                order = "" if method.open else str(method.make().order)
            rows.append((name, order, steps))
        for name, integrator in other_methods().items():
            parts = sorted({part for _, part in integrator.reads} - {FIELD})
            of = f", of functions with the parts {' and '.join(parts)}" if parts else ""
            rows.append((name, str(integrator.order), f"given{of}"))
        rows.append((WRAPPED, "of NAME", "as with NAME"))
        print(table("Methods of odeint and solve", ("method", "order", "steps"), rows, prose=True))
        print("\nOptions of one: dynamicblocks methods NAME")
        print('Use one: dynamicblocks.odeint(func, y0, t, method="NAME")')
        print(f"{EXPLAINED}: method=\"reversible('dopri5')\"")


@contextmanager
def _uncreated_weights() -> Iterator[None]:
    """Weights are counted, and neither drawn nor kept; drawing on the meta device imports the compiler."""
    import torch

    def as_it_is(tensor: Any, *_: object, **__: object) -> Any:
        return tensor

    with torch.device("meta"), patch.multiple(torch.Tensor, normal_=as_it_is, uniform_=as_it_is):
        yield


models_command = ModelsCommand()
integrators_command = IntegratorsCommand()
methods_command = MethodsCommand()
