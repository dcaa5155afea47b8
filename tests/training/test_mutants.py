"""Runs whose files were damaged by chance: refused by a typed error, or the same run."""

import pytest

from dynamicblocks.errors import DynamicBlocksError
from tests.training.damaged import copied, generator, mutate, outcome, stood, trained
from tests.training.small_task import assert_same


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, where it stands, and others of another seed and another network."""
    folder = tmp_path_factory.mktemp("runs")
    run = trained(folder)
    return run, stood(run), [trained(folder, "seed", seed=1), trained(folder, "longer", epochs=3)]


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_a_damaged_run_is_refused_or_the_same(count, runs, tmp_path):
    run, before, others = runs
    draw = generator(0)
    refused = 0
    for _ in range(count):
        mutant = copied(run, tmp_path / "mutant")
        done = mutate(mutant, others, draw)
        try:
            found = outcome(mutant)
        except Exception as error:
            raise AssertionError(f"{done}: {type(error).__name__}: {error}") from error
        if isinstance(found, DynamicBlocksError):
            assert "\n" not in str(found), done
            assert len(str(found)) < 1000, done
            refused += 1
        else:
            assert_same(before, found)
    assert refused > count / 2
