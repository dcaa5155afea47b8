"""Residual networks as differential equations: dy/dt = f(t, y; theta(t)), and five independent choices.

>>> import dynamicblocks as db
>>> block = db.DynamicBlock(
...     lambda: db.layers.PreactDouble(16),
...     controls=db.PiecewiseConstant(8),
...     times=db.uniform(0, 8, steps=8),
...     integrator="euler",
...     gradient="backprop",
... )
"""

from dynamicblocks import starting

if starting.is_program():
    starting.end_quietly()

from typing import TYPE_CHECKING

from dynamicblocks.lazy import lazy_names

__version__ = "0.1.0"

# Without load_run, which needs the extra `train`: a star import is to work without it.
__all__ = [
    "Adaptive",
    "AdditiveCoupling",
    "Adjoint",
    "AffineCoupling",
    "Backprop",
    "Basis",
    "Chebyshev",
    "Checkpoint",
    "ConfigurationError",
    "Controls",
    "CubicBSpline",
    "DenseHead",
    "DiscontinuousLinear",
    "DynamicBlock",
    "DynamicBlocksError",
    "DynamicNet",
    "Equation",
    "Flow",
    "FlowMatching",
    "Gradient",
    "Grid",
    "Head",
    "Integrator",
    "Legendre",
    "MLPField",
    "MomentumNet",
    "NeuralODE",
    "NotConvergedError",
    "NotFiniteStateError",
    "Opening",
    "PaddedConnector",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "PooledConnector",
    "ResidualConnector",
    "Reversible",
    "ReversibleSequential",
    "RungeKutta",
    "Solution",
    "SolveError",
    "SolverError",
    "Statistics",
    "Status",
    "StepLimitError",
    "StepUnderflowError",
    "StorageError",
    "Tableau",
    "analysis",
    "as_integrator",
    "check_invertible",
    "create_model",
    "freeze_unused_controls",
    "graded",
    "gradient_check",
    "layers",
    "list_integrators",
    "list_models",
    "make_flow",
    "model_options",
    "momentum_steps",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "project",
    "recalibrate",
    "rediscretise",
    "refine",
    "solve",
    "step_limit",
    "twist",
    "twists",
    "uniform",
    "untwist",
    "with_gradient",
    "with_integrator",
    "with_tolerance",
]

# Everything is imported when it is asked for: the version and the help of the command line need no torch.
if TYPE_CHECKING:
    from dynamicblocks import analysis, layers
    from dynamicblocks.analysis import gradient_check, step_limit
    from dynamicblocks.block import DynamicBlock
    from dynamicblocks.connectors import DenseHead, Head, Opening, PaddedConnector, PooledConnector, ResidualConnector
    from dynamicblocks.controls import (
        Basis,
        Chebyshev,
        Controls,
        CubicBSpline,
        DiscontinuousLinear,
        Legendre,
        PiecewiseConstant,
        PiecewiseLinear,
    )
    from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, SolverError, StorageError
    from dynamicblocks.flows import Flow, FlowMatching, make_flow
    from dynamicblocks.functional import odeint, odeint_adjoint, odeint_dense, odeint_event, solve
    from dynamicblocks.gradients import Adjoint, Backprop, Checkpoint, Gradient, Reversible
    from dynamicblocks.integrators import Adaptive, Integrator, RungeKutta, Tableau, as_integrator, list_integrators
    from dynamicblocks.invertible import (
        AdditiveCoupling,
        AffineCoupling,
        MomentumNet,
        ReversibleSequential,
        check_invertible,
        momentum_steps,
    )
    from dynamicblocks.models import create_model, list_models, model_options
    from dynamicblocks.network import DynamicNet
    from dynamicblocks.sequences import Equation, MLPField, NeuralODE
    from dynamicblocks.solving import (
        NotConvergedError,
        NotFiniteStateError,
        Solution,
        SolveError,
        Statistics,
        Status,
        StepLimitError,
        StepUnderflowError,
    )
    from dynamicblocks.surgery import (
        freeze_unused_controls,
        project,
        recalibrate,
        rediscretise,
        refine,
        with_gradient,
        with_integrator,
        with_tolerance,
    )
    from dynamicblocks.tasks.files import load_run as load_run
    from dynamicblocks.tasks.fit import fit as fit
    from dynamicblocks.times import Grid, graded, uniform
    from dynamicblocks.twisting import twist, twists, untwist
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "analysis": "gradient_check step_limit",
            "block": "DynamicBlock",
            "connectors": "DenseHead Head Opening PaddedConnector PooledConnector ResidualConnector",
            "controls": "Basis Chebyshev Controls CubicBSpline DiscontinuousLinear Legendre PiecewiseConstant "
            "PiecewiseLinear",
            "errors": "ConfigurationError DynamicBlocksError SolverError StorageError",
            "flows": "Flow FlowMatching make_flow",
            "functional": "odeint odeint_adjoint odeint_dense odeint_event solve",
            "gradients": "Adjoint Backprop Checkpoint Gradient Reversible",
            "integrators": "Adaptive Integrator RungeKutta Tableau as_integrator list_integrators",
            "invertible": "AdditiveCoupling AffineCoupling MomentumNet ReversibleSequential check_invertible "
            "momentum_steps",
            "models": "create_model list_models model_options",
            "network": "DynamicNet",
            "sequences": "Equation MLPField NeuralODE",
            "solving": "NotConvergedError NotFiniteStateError Solution SolveError Statistics Status StepLimitError "
            "StepUnderflowError",
            "surgery": "freeze_unused_controls project recalibrate rediscretise refine with_gradient with_integrator "
            "with_tolerance",
            "tasks.files": "load_run",
            "tasks.fit": "fit",
            "times": "Grid graded uniform",
            "twisting": "twist twists untwist",
        },
    )
