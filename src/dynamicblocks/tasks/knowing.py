"""Tasks that store what they know of their data with a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from dynamicblocks.training.task import Batch, Task


class Facts(Protocol):
    """What a network needs to know of its data."""

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        ...

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> Self:
        """Those of :meth:`stored`; a ConfigurationError where they cannot be."""
        ...


class Knowing(Task[Batch]):
    """A task whose ``known`` are facts of its data: of the training, or of a run that is read in their place."""

    kind_of_facts: ClassVar[type[Facts]]
    if TYPE_CHECKING:  # made of the data by each task, where no run holds it
        known: Any

    def facts(self) -> dict[str, Any]:
        stored: dict[str, Any] = self.known.stored()
        return stored

    def recall(self, facts: Mapping[str, Any]) -> None:
        vars(self)["known"] = self.kind_of_facts.of_file(facts)
