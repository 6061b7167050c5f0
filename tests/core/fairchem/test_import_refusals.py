"""What an import of SchNet, GemNet or EScAIP refuses, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairchem_files import NORMALIZATION, Theirs, task, write, write_inference
from matscale.core.errors import ConfigError, DataError
from matscale.core.fairchem import inference
from matscale.core.fairchem.checkpoint import FairchemCheckpoint, read
from matscale.core.fairchem.run import translate


def as_is(content: dict[str, Any], choice: Any = "auto") -> Any:
    """Without the process that unpickles."""
    path = Path("checkpoint.pt")
    return translate(FairchemCheckpoint(path, inference.as_training(path, content)), choice)


def changed(plain: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """With one entry changed, by its path; None takes it out."""
    plain = dict(plain)
    section: Any = plain
    *parents, last = path.split("/")
    for parent in parents:
        section[parent] = section = dict(section[parent])
    if value is None:
        del section[last]
    else:
        section[last] = value
    return plain


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        ("schnet", "readout", "mean", "readout = 'mean': schnet supports only 'sum'"),
        ("schnet", "use_pbc", False, "use_pbc = False: schnet supports only True"),
        ("schnet", "regress_forces", False, "regress_forces = False"),
        ("schnet", "cutoff", torch.ones(1), "cutoff is a tensor"),
        ("schnet", "warp", 9, "unknown option warp = 9 of schnet"),
        ("schnet", "num_filters", -1, "filters"),
        ("gemnet-dt", "warp", 9, "unknown option warp = 9 of gemnet"),
        ("gemnet-dt", "extensive", False, "extensive = False: gemnet supports only True"),
        ("gemnet-dt", "rbf", {"name": "bernstein"}, "rbf = .*bernstein"),
        ("gemnet-t", "regress_forces", False, "regress_forces = False: gemnet supports only True"),
        ("gemnet-oc", "sbf", None, "sbf = {'name': 'spherical_harmonics'}: gemnet supports only"),
        ("gemnet-oc", "forces_coupled", True, "forces_coupled = True"),
        ("gemnet-oc", "scale_basis", True, "scale_basis = True"),
        ("escaip-direct", "energy_reduce", "mean", "energy_reduce = 'mean': escaip supports only 'sum'"),
        ("escaip-direct", "activation", "relu", "activation = 'relu'"),
        ("escaip-direct", "use_global_readout", True, "use_global_readout = True"),
        ("escaip-direct", "use_envelope", 1, "use_envelope = 1: escaip supports only True"),
        ("escaip-direct", "output_hidden_layer_multiplier", 3, "multiplier = 3: escaip needs one value"),
        ("escaip-direct", "max_num_elements", "96", "max_num_elements = '96': a whole number"),
        ("escaip-direct", "warp", 9, "unknown option warp = 9 of escaip"),
    ],
)
def test_an_option_that_makes_it_another_network_is_refused_by_name(
    golden: Callable[[str], Theirs], kind: str, option: str, value: Any, message: str
) -> None:
    theirs = golden(kind)
    place = f"model_config/backbone/{option}" if theirs.is_new else f"config/model/{option}"
    with pytest.raises(ConfigError, match=rf"checkpoint\.pt: .*{message}"):
        as_is(changed(theirs.content(), place, value))


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("schnet", "state_dict/atomref.weight", torch.ones(1), r"atomref\.weight .* is not a weight of this model"),
        ("schnet", "state_dict/lin1.bias", None, r"no 'lin1\.bias'"),
        ("schnet", "state_dict/lin1.bias", torch.full((16,), torch.nan), r"lin1\.bias has NaN"),
        ("gemnet-dt", "state_dict/out_blocks.9.extra", torch.ones(1), r"out_blocks\.9\.extra .* is not a weight"),
        ("gemnet-dt", "state_dict/out_blocks.0.scale_sum.scale_factor", None, r"no 'out_blocks\.0\.scale_sum"),
        ("gemnet-dt", "scale_dict", {"Warp_1_sum": 2.0}, r"Warp_1_sum\.scale_factor .* is not a weight"),
        ("gemnet-dt", "scale_dict", {"OutBlock_0_sum": "two"}, "OutBlock_0_sum in scale_dict is not a number"),
        (
            "gemnet-dt",
            "scale_dict",
            {"OutBlock_0_sum": 99.0},
            "OutBlock_0_sum is 99 in scale_dict and .* among the weig",
        ),
        ("schnet", "normalizers/forces/rmsd", torch.tensor(2.0), "the energy is 1.75, that of the forces 2"),
        ("gemnet-t", "normalizers/forces", None, "the energy is 1.75, that of the forces 1"),
        ("gemnet-t", "normalizers/energy/mean", torch.tensor(-0.75), r"energy adds -0\.75, once for each structure"),
        ("gemnet-dt", "normalizers/stress", {}, "unknown normalizer 'stress'"),
        ("escaip-direct", "model_state_dict/output_heads.omat_energy.bias", torch.ones(1), "is not a weight of this"),
        (
            "escaip-direct",
            "ema_state_dict/module.output_heads.omat_energy.bias",
            torch.ones(1),
            "is not a weight of this",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    golden: Callable[[str], Theirs], kind: str, path: str, value: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"checkpoint\.pt: .*{message}"):
        as_is(changed(golden(kind).content(), path, value), "raw")


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        ("schnet", "hidden_channels", 10**12, "hidden = 1000000000000, more than"),
        ("schnet", "hidden_channels", 90_000, "a model of more parameters than the [0-9,]+ numbers among its weights"),
        ("schnet", "num_interactions", 90_000, "a model of more parameters"),
        ("gemnet-dt", "num_blocks", 10**12, "n_layers = 1000000000000, more than"),
        ("gemnet-oc", "emb_size_edge", 90_000, "a model of more parameters"),
        ("escaip-direct", "num_layers", 90_000, "a model of more parameters"),
        ("escaip-direct", "freequency_list", [10**12], "degree_channels"),
    ],
)
def test_options_of_a_model_that_the_weights_cannot_fill_are_refused_before_it_is_built(
    golden: Callable[[str], Theirs], kind: str, option: str, value: Any, message: str
) -> None:
    theirs = golden(kind)
    place = f"model_config/backbone/{option}" if theirs.is_new else f"config/model/{option}"
    with pytest.raises(ConfigError, match=rf"checkpoint\.pt: .*{message}"):
        as_is(changed(theirs.content(), place, value))


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("gemnet-dt", "config/model/envelope", {"name": torch.ones(2)}, "envelope is a tensor, or holds one"),
        ("escaip-direct", "model_config/backbone/direct_forces", torch.ones(2), "direct_forces is a tensor"),
        ("escaip-direct", "model_config/heads/omat_forces/module", torch.ones(2), "omat_forces is a tensor, or holds"),
        ("escaip-direct", "tasks_config", torch.ones(2), "tasks_config is a Tensor where a list is expected"),
        ("escaip-direct", "ema_state_dict", [1], "ema_state_dict is a list where a dict is expected"),
        ("escaip-direct", "tasks_config", [task("energy", 1.0, normalizer=torch.ones(2))], "is made by 'Tensor'"),
        ("escaip-direct", "tasks_config", [task("energy", 1.0, element_references=torch.ones(2))], "made by 'Tensor'"),
        ("gemnet-oc", "config/model/num_spherical", 7, r"mlp_cbf_tint\.weight has shape \[16, 5, 8\] where"),
        (
            "gemnet-oc",
            "state_dict/mlp_cbf_tint.weight",
            torch.ones(5, 16, 8),
            r"mlp_cbf_tint\.weight has shape \[5, 16",
        ),
        ("gemnet-dt", "state_dict/mlp_cbf3.weight", torch.ones(2), r"mlp_cbf3\.weight has shape \[2\] where"),
        ("gemnet-dt", "state_dict/out_blocks.1.out_energy.linear.weight", torch.ones(2, 2), "has shape .* where"),
    ],
)
def test_what_has_another_form_than_expected_is_refused_by_name(
    golden: Callable[[str], Theirs], kind: str, path: str, value: Any, message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=rf"checkpoint\.pt: .*{message}"):
        as_is(changed(golden(kind).content(), path, value), "raw")


@pytest.mark.parametrize("tags", [10**12, [[1], {}]])
def test_tags_of_any_form_have_no_effect_but_the_note(golden: Callable[[str], Theirs], tags: Any) -> None:
    imported = as_is(changed(golden("gemnet-oc").content(), "config/model/qint_tags", tags))
    assert any(str(tags) in note for note in imported.notes)


def test_a_decay_that_is_no_number_is_no_average(golden: Callable[[str], Theirs]) -> None:
    content = changed(golden("schnet").best(), "config/optim/ema_decay", torch.ones(2))
    assert as_is(content).weights == "raw"


def test_a_list_of_averages_in_another_order_is_refused(golden: Callable[[str], Theirs]) -> None:
    theirs = golden("gemnet-dt")
    for average, message in (
        (theirs.average()[::-1], "in another order"),
        (theirs.average()[1:], r"has \d+ tensors for"),
    ):
        with pytest.raises(DataError, match=message):
            as_is(theirs.content(ema={"shadow_params": average}))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"omat": {"module": "EScAIP_rank2_head"}}, "its head 'omat' is 'EScAIP_rank2_head'"),
        ({"omat": {"module": "EScAIP_energy_head", "spin": 1}}, "unknown option 'spin' of the head 'omat'"),
        ({"omat": {"module": "EScAIP_energy_head"}}, "its heads are omat, but a model with its options has"),
        ({}, "its heads are none"),
    ],
)
def test_other_heads_of_escaip_are_refused_by_name(golden: Callable[[str], Theirs], heads: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_is(changed(golden("escaip-direct").content(), "model_config/heads", heads))


def test_other_heads_of_gemnet_are_refused_by_name(golden: Callable[[str], Theirs]) -> None:
    theirs = golden("gemnet-dt")
    backbone = {"model": "gemnet_t_backbone", **theirs.options}
    energy = {"module": "gemnet_t_energy_and_grad_force_head"}
    for heads, message in (
        (
            {"energy": energy},
            "has heads for energy, but a model with its options has one for energy and one for forces",
        ),
        ({"energy": energy, "forces": {"module": "painn_force_head"}}, "its head 'forces' is 'painn_force_head'"),
        ({"energy": {**energy, "reduce": "mean"}}, "unknown option reduce of the head 'energy'"),
    ):
        model = {"name": "hydra", "backbone": backbone, "heads": heads}
        with pytest.raises(ConfigError, match=message):
            as_is(changed(theirs.best(), "config/model", model))


READS_A_FILE = {"_target_": f"{NORMALIZATION}.normalizer.create_normalizer", "file": "norm.npz"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task("energy", 1.0), task("energy", 2.0)], "more than one task for the energy"),
        ([task("energy", 1.0, normalizer=READS_A_FILE)], "normalizer of the energy is made by '.*create_normalizer'"),
        ([task("charge", 1.0)], "unknown normalizer 'charge'"),
        ([{"name": "omat"}], "a task without a property"),
        ([task("energy", 0.0)], "a positive scale"),
        ([task("energy", 1.0, element_references={"_target_": "x.Read", "file": "refs.npz"})], "made by 'x.Read'"),
    ],
)
def test_tasks_that_cannot_be_carried_over_are_refused_by_name(
    golden: Callable[[str], Theirs], tasks: list, message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        as_is(golden("escaip-direct").content(tasks_config=tasks))


def test_another_model_of_fairchem_2_is_refused_by_name(golden: Callable[[str], Theirs]) -> None:
    content = golden("escaip-direct").content()
    with pytest.raises(
        ConfigError, match=r"its backbone is 'uma_backbone', and only these are imported: EScAIP_backbone,"
    ):
        as_is(changed(content, "model_config/backbone/model", "uma_backbone"))
    with pytest.raises(ConfigError, match="only a HydraModel is imported"):
        as_is(changed(content, "model_config/_target_", "fairchem.core.models.base.HydraModelV2"))


def test_settings_wrapped_in_classes_are_read_and_other_classes_refused_by_name(
    golden: Callable[[str], Theirs], tmp_path: Path
) -> None:
    content = golden("escaip-gradient").content()
    found = read(write_inference(content, tmp_path / "fine.pt"))
    assert {"model": found.model.name, **found.model.options} == content["model_config"]["backbone"]
    with pytest.raises(DataError, match=r"is refused: it refers to lab\.secrets\.Thief: .* Nothing of it was imported"):
        read(write_inference(content, tmp_path / "bad.pt", "lab.secrets Thief"))
    with pytest.raises(DataError, match=r"tasks_config\.3: is a AnyNode, not a number"):
        read(write_inference(content, tmp_path / "node.pt", "omegaconf.nodes AnyNode"))
    with pytest.raises(DataError, match="has the unknown key flux"):
        read(write(golden("escaip-gradient"), {**content, "flux": 1}, tmp_path / "flux.pt"))


def test_settings_nested_into_themselves_are_refused(golden: Callable[[str], Theirs], tmp_path: Path) -> None:
    bomb: Any = "boom"
    for _ in range(25):
        bomb = (bomb,) * 10
    path = write_inference(golden("escaip-direct").content(tasks_config=bomb), tmp_path / "bomb.pt")
    with pytest.raises(DataError, match="more than 1000000 values"):
        read(path)


def test_an_inference_checkpoint_without_an_average_has_raw_weights(golden: Callable[[str], Theirs]) -> None:
    content = golden("escaip-direct").content(ema_state_dict=None)
    assert as_is(content).weights == "raw"
    with pytest.raises(ConfigError, match="has no averaged weights, only raw ones"):
        as_is(content, "ema")
