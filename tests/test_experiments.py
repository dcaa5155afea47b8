"""The configurations of the published networks, and the comparisons."""

import numpy as np
import pytest
import torch
import yaml

import dynamicblocks as db
from dynamicblocks.network import num_weights
from dynamicblocks.tasks import load_config
from tests.experiment_scripts import EXPERIMENTS, load_script

PUBLISHED = yaml.safe_load((EXPERIMENTS / "published.yaml").read_text())
# Weights at the end of the training, as the version counted them in which the published rows were written.
WEIGHTS = {
    "cifar100_hamiltonian": 362_180,
    "cifar100_hamiltonian_resnet218": 1_702_500,
    "cifar100_hamiltonian_resnet74": 442_180,
    "cifar100_leapfrog_resnet62": 1_815_492,
    "cifar100_midpoint_resnet62": 1_815_492,
    "cifar100_multilevel_resnet122": 1_954_164,
    "cifar100_multilevel_resnet122_i": 1_954_164,
    "cifar100_multilevel_resnet14": 204_276,
    "cifar100_multilevel_resnet32": 495_924,
    "cifar100_multilevel_resnet50": 787_572,
    "cifar100_multilevel_resnet50_i": 787_572,
    "cifar100_parabolic": 652_484,
    "cifar100_second_order": 652_484,
    "cifar100_wide_euler_8": 13_630_676,
    "cifar100_wide_resnet58": 13_631_108,
    "cifar10_dynamicblocks_rk4": 251_866,
    "cifar10_euler_2": 273_210,
    "cifar10_euler_8": 857_850,
    "cifar10_hamiltonian": 264_106,
    "cifar10_hamiltonian_resnet1202": 9_699_338,
    "cifar10_hamiltonian_resnet218": 1_690_890,
    "cifar10_hamiltonian_resnet74": 432_010,
    "cifar10_leapfrog_resnet62": 1_803_882,
    "cifar10_lm_resnet20": 272_384,
    "cifar10_lm_resnet32": 466_822,
    "cifar10_lm_resnet44": 661_260,
    "cifar10_lm_resnet56": 855_698,
    "cifar10_midpoint_1to2": 273_210,
    "cifar10_midpoint_resnet62": 1_803_882,
    "cifar10_multilevel_resnet122": 1_948_314,
    "cifar10_multilevel_resnet122_i": 1_948_314,
    "cifar10_multilevel_resnet14": 198_426,
    "cifar10_multilevel_resnet32": 490_074,
    "cifar10_multilevel_resnet50": 781_722,
    "cifar10_multilevel_resnet50_i": 781_722,
    "cifar10_parabolic": 502_570,
    "cifar10_resnet20": 272_474,
    "cifar10_resnet56": 855_770,
    "cifar10_rk4_1to2": 273_210,
    "cifar10_rk4_1to8": 857_850,
    "cifar10_rk4_2": 273_210,
    "cifar10_rk4_8": 857_850,
    "cifar10_second_order": 502_570,
    "fast20_euler_2": 273_210,
    "fast20_rk4_1to2": 273_210,
    "fast_euler_2": 273_210,
    "fast_resnet20": 272_474,
    "stl10_hamiltonian": 324_794,
    "stl10_parabolic": 618_554,
    "twist_resnet34_50ep": 29_392_202,
    "twist_resnet50_120ep": 27_760_202,
}


def test_each_configuration_has_its_published_row():
    assert {path.stem for path in (EXPERIMENTS / "configs").glob("*.yaml")} == set(PUBLISHED) == set(WEIGHTS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_make_networks_of_the_published_size(name):
    task, config = load_config(EXPERIMENTS / "configs" / f"{name}.yaml")
    classes = 100 if task.data.name == "cifar100" else 10
    with torch.device("cpu" if name.startswith("twist") else "meta"):  # the deep ones need no numbers
        net = task.model.create(3, classes)
        for _ in config.refine.epochs:
            net = db.refine(net)
    assert num_weights(net) == WEIGHTS[name]
    units, published = PUBLISHED[name][2], PUBLISHED[name][5]
    if published is not None:
        assert num_weights(net) / 1e6 == pytest.approx(published, abs=0.007)
    elif task.model.name == "dynamicnet":
        last = [int(number) for number in units.split("->")[-1].split("-")]
        assert [block.steps for block in net.blocks] == [len(block.controls) for block in net.blocks] == last
    else:
        assert len(db.twists(net).twisted) > 0 or net.blocks[0].gradient == db.Reversible()


def test_a_configuration_of_the_version_before_is_read_as_the_one_of_now(tmp_path):
    path = EXPERIMENTS / "configs" / "fast20_rk4_1to2.yaml"
    written = yaml.safe_load(path.read_text())
    del written["task"]
    written["optimizer"]["label_smoothing"] = written.pop("label_smoothing")
    written["model"]["pool"] = None  # every option of every model was written
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    assert load_config(tmp_path / "config.yaml") == load_config(path)


def test_accuracies_that_were_not_found_are_marked_and_what_was_not_trained_is_said():
    row = load_script("report").row(
        "none_of_them", ["Net", "CIFAR-10", "3-3-3", "-", "Euler", 0.5, 88.5, None, "no source"]
    )
    assert "| 0.5 M | 88.50 (no source) | - | not measured | not measured | not measured |" in row


def test_families_are_compared_at_equal_size_on_the_same_images():
    script = load_script("pde_families")
    with torch.device("meta"):
        weights = {name: num_weights(script.build(name)) for name in script.FAMILIES}
    assert {name: count for name, count in weights.items() if not 250_000 <= count <= 300_000} == {}
    planned = [script.config_of(name, 0, None, "runs") for name in (*script.FAMILIES, *script.LEVELS)]
    assert all(task.data == planned[0][0].data for task, _ in planned)
    assert all(config.optimizer == planned[0][1].optimizer for _, config in planned)
    assert planned[0][0].data.train_images == 10_000
    grown = script.config_of(script.GROWN, 0, None, "runs")[1].refine
    assert (grown.restart, len(grown.epochs)) == (True, 2)


def test_twisted_networks_of_the_comparison_have_at_most_the_weights_of_the_plain_ones():
    script = load_script("cifar10_twist")
    with torch.device("meta"):
        twisted, equal = (
            num_weights(script.build(f"ContinuousNet, {name}")) for name in ("width 16, twist", "equal weights")
        )
    assert twisted == 540_906 <= equal


def test_networks_for_the_heat_equation_are_of_equal_size():
    heat = load_script("heat_operator").heat
    weights = {name: num_weights(model.create(1, 1, dense=True, dims=1)) for name, model in heat.NETWORKS.items()}
    assert all(2_250 <= count <= 2_550 for count in weights.values()), weights
    assert set(heat.SMALL["networks"]) < set(heat.NETWORKS)


def test_the_heat_equation_is_solved_by_the_fields_of_the_example():
    """Beside many small explicit steps."""
    heat = load_script("heat_operator").heat
    before, after = heat.fields(3, seed=1)
    steps, state = 2_000, before.copy()
    for _ in range(steps):
        second = (np.roll(state, 1, -1) - 2 * state + np.roll(state, -1, -1)) * heat.POINTS**2
        state = state + heat.TIME / steps * second
    assert np.abs(state - after).max() < 5e-3 * np.abs(after).max()
    assert np.abs(before - after).max() > 0.3 * np.abs(after).max()


def test_the_modes_of_the_comparison_begin_alike_and_are_watched_as_each_epoch_begins(tmp_path):
    script = load_script("anode")
    planned = [script.config_of(solver, mode, 0, None, "runs") for solver, mode in script.ROWS]
    assert len({config.run for _, config in planned}) == len(planned)
    assert all(task.data == planned[0][0].data for task, _ in planned)
    assert all(config.optimizer == planned[0][1].optimizer for _, config in planned)
    nets = []
    for task, _ in planned:
        torch.manual_seed(0)
        nets.append(task.sketch())
    assert all(torch.equal(a, b) for net in nets for a, b in zip(net.parameters(), nets[0].parameters(), strict=True))
    batch = torch.randn(4, 3, 8, 8), torch.arange(4)
    errors = {row: script.gradient_error(net, batch)["error"] for row, net in zip(script.ROWS, nets, strict=True)}
    for (solver, mode), error in errors.items():
        limit = 1e-4 if mode in ("backprop", "checkpoint") else 0.2 if "interpolant" in mode else None
        assert limit is None or error < limit, (solver, mode, error)
    assert errors["Euler", "adjoint"] > 1e-3
    seen = []
    told = script.Telling([[1], [2]], seen.append)
    with pytest.raises(AttributeError):
        next(told.training(3))
    assert seen == [3]
    with pytest.raises(AttributeError):
        next(told.training(3, first_step=1))
    assert seen == [3]
