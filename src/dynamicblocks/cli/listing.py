"""``dynamicblocks models``, ``dynamicblocks integrators`` and ``dynamicblocks methods``."""

import inspect

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from dynamicblocks.integrators import (
    METHODS,
    REVERSIBLE,
    AdaptiveMethod,
    GridMethod,
    as_integrator,
    as_method,
    list_integrators,
)
from dynamicblocks.models import create_model, list_models, model_options

WRAPPED = f"{REVERSIBLE}('NAME')"
EXPLAINED = "Explicit Runge-Kutta methods with steps that can be taken back"


class ModelsCommand:
    """Lists networks, or the options of one."""

    HELP = "list the networks, or the options of one"
    USAGE = "dynamicblocks models [NAME]"
    DESCRIPTION = """List the networks with their numbers of weights, or the options of one.

Example: dynamicblocks models resnet20"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", type=str | None, nargs="?", default=None, help="a network, to see its options")

    def run(self, options: Namespace) -> None:
        if options.name is None:
            table = Table("network", "weights", "evaluations", title="Networks (colour images, 10 classes)")
            for name in list_models():
                net = create_model(name)
                table.add_row(name, f"{net.num_weights:,}", str(net.evaluations))
            Console().print(table, "Options of one: dynamicblocks models NAME", sep="\n", highlight=False)
            return
        table = Table("option", "default", title=f"Options of {options.name}")
        for option, parameter in model_options(options.name).items():
            table.add_row(option, "" if parameter.default is inspect.Parameter.empty else repr(parameter.default))
        Console().print(table, f"Use one: dynamicblocks train --model.name {options.name}", sep="\n", highlight=False)


class IntegratorsCommand:
    """Lists integrators."""

    HELP = "list the integrators"
    USAGE = "dynamicblocks integrators"
    DESCRIPTION = """List the integrators with their orders and costs.

Example: dynamicblocks integrators"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """It has none."""

    def run(self, options: Namespace) -> None:
        table = Table("integrator", "order", "evaluations a step", title="Integrators")
        for name in list_integrators():
            integrator = as_integrator(name)
            least = "" if integrator.fixed_cost else "at least "
            table.add_row(name, str(integrator.order), f"{least}{integrator.evaluations}")
        table.add_row(WRAPPED, "of NAME", "twice those of NAME")
        Console().print(
            table,
            "Use one: dynamicblocks train --model.integrator NAME",
            f"{EXPLAINED}: dynamicblocks train --model.integrator \"reversible('rk4')\"",
            sep="\n",
            highlight=False,
        )


class MethodsCommand:
    """Lists the methods of odeint and solve, or the options of one."""

    HELP = "list the methods of odeint and solve, or the options of one"
    USAGE = "dynamicblocks methods [NAME]"
    DESCRIPTION = """List the methods of odeint and solve with their orders, or the options of one.

Example: dynamicblocks methods dopri5"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", type=str | None, nargs="?", default=None, help="a method, to see its options")

    def run(self, options: Namespace) -> None:
        if options.name is not None:
            if options.name == REVERSIBLE:
                line = f"{WRAPPED} takes the options of NAME, and coupling: reversible('rk4', coupling=0.99)"
                Console().print(line, highlight=False)
                return
            method = as_method(options.name)
            Console().print(f"Options of {method.name}: {', '.join(method.options)}", highlight=False)
            return
        table = Table("method", "order", "steps", title="Methods of odeint and solve")
        for name, method in METHODS.items():
            order, steps = "", "SciPy's"
            if isinstance(method, (AdaptiveMethod, GridMethod)):
                steps = "as the error allows" if isinstance(method, AdaptiveMethod) else "given"
                # An open one is made for a problem alone.
                order = "" if method.open else str(method.make().order)
            table.add_row(name, order, steps)
        table.add_row(WRAPPED, "of NAME", "as with NAME")
        Console().print(
            table,
            "Options of one: dynamicblocks methods NAME",
            'Use one: dynamicblocks.odeint(func, y0, t, method="NAME")',
            f"{EXPLAINED}: method=\"reversible('dopri5')\"",
            sep="\n",
            highlight=False,
        )


models_command = ModelsCommand()
integrators_command = IntegratorsCommand()
methods_command = MethodsCommand()
