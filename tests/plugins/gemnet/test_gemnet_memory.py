"""Memory: bounded where angles are many, and refused with numbers where a batch cannot be held at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from matscale.core.errors import ConfigError
from matscale.core.model.outputs import model_outputs
from matscale.plugins.gemnet import angles, dihedrals
from matscale.plugins.gemnet.links import links_of
from matscale.plugins.gemnet.memory import group_limits, least_bytes, total_memory


def test_a_batch_that_no_memory_holds_is_refused_with_its_counts_and_what_to_change(
    small_oc, make_model, batch, monkeypatch
) -> None:
    config = small_oc()
    model, data = make_model(config), batch(config)
    monkeypatch.setattr("matscale.plugins.gemnet.memory.total_memory", lambda device: 10_000)
    pattern = (
        r"a batch of 10 atoms has \d+ edges, [\d,]+ triplets, [\d,]+ quadruplets, which take at least 0.0 GiB; cpu has "
        r"0.0 GiB. Make batches smaller \(batch.structures, .*cutoff \(now 3.5 Å\) or max_neighbors \(now all\)"
    )
    with pytest.raises(ConfigError, match=pattern):
        model(data)


def test_what_a_job_or_container_may_take_counts_and_not_what_the_machine_has(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "sys"
    (root / "slurm" / "job_1" / "step_0").mkdir(parents=True)
    (root / "slurm" / "job_1" / "memory.max").write_text("4096\n")
    (root / "slurm" / "job_1" / "step_0" / "memory.max").write_text("max\n")
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("8192\n")
    groups.write_text("12:cpu,cpuacct:/\n4:memory:/docker/of-the-host\n0::/slurm/job_1/step_0\n")
    assert sorted(group_limits(groups, root)) == [4096, 8192]
    assert list(group_limits(tmp_path / "none", root)) == []
    assert 0 < total_memory(torch.device("cpu")) <= min(group_limits(), default=2**63)


def test_what_a_batch_takes_at_least_grows_with_its_edges_and_with_gradients(small, batch) -> None:
    config = small()
    links = links_of(batch(config))
    far = links_of(batch(small(cutoff=5.0)))
    assert least_bytes(config, far, None) > 2 * least_bytes(config, links, None)
    with torch.no_grad():
        assert least_bytes(config, far, None) < least_bytes(config, far, far)
        predicting = least_bytes(config, links, None)
    assert predicting < least_bytes(config, links, None)


@pytest.mark.parametrize("forces", ["direct", "gradient"])
def test_outputs_and_gradients_are_the_same_where_angles_are_made_in_pieces(
    small_oc, make_model, batch, monkeypatch, forces
) -> None:
    config = small_oc(forces=forces)
    model, data = make_model(config), batch(config)

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        outputs = model_outputs(model, data, derive=forces == "gradient", create_graph=True)
        assert outputs.forces is not None
        (outputs.energy.sum() + outputs.forces.square().sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return [outputs.energy.detach(), outputs.forces.detach(), gradient]

    kept = step()
    for module in (angles, dihedrals):
        monkeypatch.setattr(module, "KEPT", 0)
        monkeypatch.setattr(module, "AT_ONCE", 200)
    assert not model.geometry(data).triplets.are_kept
    assert len(model.geometry(data).triplets.pieces) > 3
    for found, expected in zip(step(), kept):
        torch.testing.assert_close(found, expected)


def test_a_training_step_keeps_less_where_angles_are_made_in_pieces(small, make_model, batch, monkeypatch) -> None:
    config = small(cutoff=6.0, n_spherical=7)
    model, data = make_model(config), batch(config)

    def kept_bytes() -> int:
        total = 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(data)
        return total

    kept = kept_bytes()
    monkeypatch.setattr(angles, "KEPT", 0)
    monkeypatch.setattr(angles, "AT_ONCE", 1000)
    n_angles = model.geometry(data).triplets.n_angles
    assert n_angles > 10_000
    assert kept - kept_bytes() > n_angles * config.n_spherical * 8  # a whole array of polynomials, at least
