"""Tasks on data that have a name, or were handed over in Python."""

from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.knowing import Knowing
from dynamicblocks.training.task import Batch

GIVEN = "given"
"""The name of data that were handed over in Python."""


class Handed(Knowing[Batch]):
    """A task whose options ``data`` can ``load()`` the data that they name and ``split`` what is handed over."""

    if TYPE_CHECKING:  # a field of each task, with options of its own
        data: Any

    def with_data(self, given: Any) -> Self:
        """The task on data that somebody has in Python, in the place of those that it names."""
        assert is_dataclass(self)
        task = replace(self, data=replace(self.data, name=GIVEN))
        vars(task)["handed"] = given
        return task

    @property
    def source(self) -> str:
        """What the data are called: their name, or that of their file."""
        return Path(self.data.name.partition(":")[2] or self.data.name).stem

    def found(self) -> Any:
        """The data, split.

        Raises:
            ConfigurationError: they were handed over when the run was trained, and now are not.
        """
        if self.data.name != GIVEN:
            return self.data.load()
        if "handed" not in vars(self):
            raise ConfigurationError(
                "the data of this run were handed over in Python and are not stored with it; give them again: "
                "task.with_data(...)"
            )
        return self.data.split(vars(self)["handed"])

    def check_features(self, now: tuple[str, ...]) -> None:
        """Raise where a run was trained on other features than its data have now."""
        known = vars(self).get("known")
        if known is not None and known.features != now:
            raise ConfigurationError(
                f"the run was trained on {', '.join(known.features)}, but {self.data.name} now holds "
                f"{', '.join(now)}; give the data of the training"
            )

    def sketch(self) -> nn.Module:
        # What the data lack, and what the network makes of them, is said before a run begins.
        self.load()
        return self.build()
