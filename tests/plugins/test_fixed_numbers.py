"""Each model against numbers of its own: a change of its mathematics shows, also without material from outside.

The numbers were computed by the models themselves, in float64 on a CPU, at the commit that added them. What says that
they are right is elsewhere: SchNet, GemNet, eSEN and EquiformerV3 gave, at the same commits, the golden energies and
forces of another program (test_schnet.py, test_gemnet_golden.py, test_esen_golden.py, test_eqv3_golden.py, with the
folder `shared`), and all models kept the contract. For `fcn` and the transformers, which no other program has, the
numbers only hold fast what was computed then. Whoever changes the mathematics of a model on purpose computes them anew
and says so in the changelog.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.hosting.host import host
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.outputs import Outputs, model_outputs

ESCAIP = {"hidden": 8, "n_layers": 2, "n_heads": 2, "degree_channels": [1, 1, 0, 1, 1], "atom_channels": 3,
          "order_channels": 2, "n_order": 4, "distance_channels": 4, "n_radial": 6, "cutoff": 4.0, "n_neighbors": 8,
          "max_neighbors": 24}  # fmt: skip
_GEMNET = {
    "n_layers": 1,
    "atom_channels": 5,
    "edge_channels": 6,
    "triplet_in": 3,
    "triplet_out": 4,
    "n_radial": 6,
    "n_spherical": 3,
    "radial_embedding": 3,
    "circular_embedding": 2,
    "n_atom": 1,
    "cutoff": 4.0,
}
_OC = {
    "quadruplets": True,
    "atom_edge": True,
    "edge_atom": True,
    "atom_atom": True,
    "quadruplet_in": 3,
    "quadruplet_out": 2,
    "pair_in": 3,
    "pair_out": 2,
    "spherical_embedding": 4,
    "n_joint_layers": 1,
    "n_atom_before": 1,
    "n_output_after": 1,
    "always_project": False,
    "cutoff_quadruplets": 3.4,
    "cutoff_atom_atom": 5.0,
}
_ESEN = {"channels": 4, "hidden": 3, "edge_channels": 5, "n_layers": 2, "lmax": 2, "n_radial": 6, "cutoff": 4.0}
_EQV3 = {
    "channels": 4,
    "edge_channels": 5,
    "n_layers": 2,
    "lmax": 2,
    "attention_hidden": 3,
    "alpha_channels": 3,
    "value_channels": 2,
    "ffn_hidden": 6,
    "n_radial": 6,
    "cutoff": 4.0,
}
MODELS = {
    "esen": ("esen", _ESEN),
    "esen-direct": ("esen", {**_ESEN, "forces": "direct", "activation": "s2", "feed_forward": "grid"}),
    "eqv3": ("eqv3", _EQV3),
    "eqv3-direct": ("eqv3", {**_EQV3, "forces": "direct", "lmax": 3, "attention_epsilon": 1e-8}),
    "schnet": ("schnet", {"hidden": 4, "filters": 5, "n_layers": 2, "n_radial": 6, "cutoff": 4.0}),
    "escaip": ("escaip", ESCAIP),
    "escaip-gradient": ("escaip", {**ESCAIP, "forces": "gradient"}),
    "fcn": ("fcn", {"embedding": 4, "hidden": 6, "depth": 2, "head_width": 5, "head_layers": 3}),
    "transformer": ("transformer", {"width": 8, "n_heads": 2, "n_layers": 2, "feedforward": 6, "head_width": 5}),
    "transformer-concatenated": (
        "transformer",
        {"inputs": "concatenated", "width": 8, "n_heads": 2, "n_layers": 2, "feedforward": 6, "head_width": 5},
    ),
    "transformer-periodic": (
        "transformer-periodic",
        {"width": 8, "n_heads": 2, "n_layers": 2, "feedforward": 6, "head_width": 5, "cutoff": 4.0, "n_radial": 5},
    ),
    "gemnet-t": ("gemnet", {**_GEMNET, "forces": "gradient"}),
    "gemnet-oc": ("gemnet", {**_GEMNET, **_OC}),
}

EXPECTED: dict[str, dict[str, list]] = {
    "esen": {
        "energy": [-1.512464226913, -1.161938877923],
        "forces": [
            [-0.01341377951274, -0.01177034864379, 0.005915007290083],
            [0.01873345300383, -0.007012092412401, 0.002627622172154],
            [-0.00531967349109, 0.01878244105619, -0.008542629462238],
            [-0.04082588050201, -0.0238150969595, -0.03061941037651],
            [0.04082588050201, 0.0238150969595, 0.03061941037651],
        ],
        "stress": [
            [-0.001374133160637, -0.0001296213034283, 0.0001782774180354],
            [-0.0001296213034283, -0.001443780128092, 0.0002010857095716],
            [0.0001782774180354, 0.0002010857095716, -0.001971577984952],
        ],
    },
    "esen-direct": {
        "energy": [-4.266472854858, -2.244299106685],
        "forces": [
            [0.01675757758741, -0.08918817641152, 0.02732989021698],
            [0.01893281259726, 0.0256689140405, -0.01446515314336],
            [-0.03449145811387, 0.1420117690107, -0.01106591766945],
            [-0.3010070147076, -0.1772489245095, -0.2248810940547],
            [0.07600744725967, 0.04423116471368, 0.05715688609981],
        ],
        "stress": [
            [-0.1742281219717, -0.01095923005395, 0.1144730363941],
            [-0.01095923005395, 0.03087794835964, 0.1584545320685],
            [0.1144730363941, 0.1584545320685, -0.5919914321801],
        ],
    },
    "schnet": {
        "energy": [-0.203963752599, -0.4239946885298],
        "forces": [
            [0.008932837544693, 0.01709081684053, 0.01226544250794],
            [-0.0161782218146, -0.01769653012187, -0.01153551039251],
            [0.007245384269907, 0.0006057132813418, -0.0007299321154255],
            [-0.01900329178312, -0.01108525354015, -0.01425246883734],
            [0.01900329178312, 0.01108525354015, 0.01425246883734],
        ],
        "stress": [
            [0.002645864132859, -0.0006502475263118, 0.000168525255844],
            [-0.0006502475263118, 0.001748712414871, 0.0003784426385219],
            [0.000168525255844, 0.0003784426385219, -0.0006962920983457],
        ],
    },
    "escaip": {
        "energy": [-1.088162011958, -0.774865041754],
        "forces": [
            [-0.08015027289922, -0.02531412569635, 0.09997739335533],
            [0.1345804575499, 0.001090183345157, 0.03034838062053],
            [-0.05373460911774, 0.02484505269657, -0.1297202492325],
            [-0.1119542435266, -0.01355496253629, 0.05693285468821],
            [0.1119512652683, 0.01354892151942, -0.05694266866844],
        ],
        "stress": [
            [0.1062300997032, 0.01167028297452, 0.009814217200358],
            [0.01167028297452, 0.1297247174685, 0.01718225467885],
            [0.009814217200358, 0.01718225467885, 0.122847093782],
        ],
    },
    "escaip-gradient": {
        "energy": [-1.68667100916, -1.124388332209],
        "forces": [
            [-2.211696659668e-05, -9.224630123452e-05, 2.225231656302e-05],
            [1.101281494608e-05, 8.253986274696e-05, 2.839953583326e-05],
            [1.11041516506e-05, 9.706438487562e-06, -5.065185239628e-05],
            [-4.194130027277e-05, -2.446575849245e-05, -3.145597520458e-05],
            [4.194130027277e-05, 2.446575849245e-05, 3.145597520458e-05],
        ],
        "stress": [
            [-1.614397305016e-07, -7.54540342768e-07, -2.490275403032e-07],
            [-7.54540342768e-07, -1.196421712969e-06, -7.416522712737e-07],
            [-2.490275403032e-07, -7.416522712737e-07, 1.600863831953e-06],
        ],
    },
    "eqv3": {
        "energy": [0.832271347756, 0.9254221627972],
        "forces": [
            [0.005952866262498, -4.146931691505e-05, -0.01429765891006],
            [0.009470607695893, 0.007616703088234, 0.00340474134013],
            [-0.01542347395839, -0.007575233771319, 0.01089291756993],
            [0.3139498342247, 0.1831374032977, 0.2354623756685],
            [-0.3139498342247, -0.1831374032977, -0.2354623756685],
        ],
        "stress": [
            [-0.0007793074114877, 0.0001474426865234, -0.0002493733658771],
            [0.0001474426865234, -0.0005743380711891, -0.0004384633871728],
            [-0.0002493733658771, -0.0004384633871728, -0.0005927163711245],
        ],
    },
    "eqv3-direct": {
        "energy": [0.870805439128, 1.688992513499],
        "forces": [
            [-0.01197112329896, -0.203701739062, 0.03825848776684],
            [0.04802164597609, 0.1146432557097, 0.0467795281887],
            [-0.04373397257874, 0.1034293713599, -0.1064193938472],
            [-0.905398568778, -0.5281491651205, -0.6790489265835],
            [0.8992856159429, 0.5245832759667, 0.6744642119572],
        ],
        "stress": [
            [0.2515854871341, -0.0004521305638418, -0.0003658516963038],
            [-0.0004521305638418, 0.2509610528223, -0.0007143146958733],
            [-0.0003658516963038, -0.0007143146958733, 0.2514998950242],
        ],
    },
    "fcn": {
        "energy": [-0.1757883410378, 0.02782850822685],
        "forces": [
            [-0.1808031549774, 1.929230197216, -0.5148963676508],
            [0.2076562228319, 1.53688494051, -0.1685270667218],
            [0.1428043872676, 1.56717740527, -0.1604103935557],
            [0.09415071779263, 1.613343191763, -0.1982212430513],
            [0.07372512957074, 1.645924907126, -0.2388183852994],
        ],
        "stress": [
            [0.2271490938187, 0.8166379862548, -0.4390367281869],
            [0.8166379862548, 1.524668866592, 1.42988031733],
            [-0.4390367281869, 1.42988031733, -0.1254921809925],
        ],
    },
    "transformer": {
        "energy": [-2.817806066944, 0.9428983213128],
        "forces": [
            [1.70581549013, 0.02961566597554, 1.18387532277],
            [1.27732886807, 0.3317645666868, 1.046463227572],
            [1.223048704393, 0.3459426052346, 1.074189153228],
            [0.4561817052406, 1.717688706045, -0.7281054663579],
            [0.1051074247409, 1.696261136522, -0.3368992043131],
        ],
        "stress": [
            [0.7456411077779, 1.39342491896, 0.3569224366526],
            [1.39342491896, -0.06222533660621, 0.8378519912561],
            [0.3569224366526, 0.8378519912561, 0.5295411564207],
        ],
    },
    "transformer-concatenated": {
        "energy": [-3.764302536397, -3.166309338165],
        "forces": [
            [1.713241751741, -0.0879059529764, 1.396556873096],
            [1.494739048254, 0.1164975696072, 1.232229485325],
            [1.368445549341, 0.1907799165, 1.219398583247],
            [0.8188878782928, 0.6614020023775, 0.8875218552818],
            [0.8406391356519, 0.6054199730602, 0.9706200893672],
        ],
        "stress": [
            [0.9501341116575, 1.585881919821, 0.2350349468761],
            [1.585881919821, -0.2006611563985, 0.8736797001916],
            [0.2350349468761, 0.8736797001916, 0.5843264509514],
        ],
    },
    "transformer-periodic": {
        "energy": [6.055467063775, 1.745149223851],
        "forces": [
            [-1.053355536994, 3.112969473433, -2.163764654161],
            [0.0863372541458, 2.433283237809, -2.030464004083],
            [-0.263716945706, 2.781041933972, -2.331731717402],
            [0.4721800670555, 1.264162257286, -0.2266444960658],
            [0.7483625549028, 1.454872457685, -0.8600106689107],
        ],
        "stress": [
            [-0.03282864070568, 0.3842426107687, 0.7832019953981],
            [0.3842426107687, 0.8536458528293, 0.8899759974063],
            [0.7832019953981, 0.8899759974063, 0.5064811063514],
        ],
    },
    "gemnet-t": {
        "energy": [-0.2659115213003, -0.2003994444116],
        "forces": [
            [0.07147067119223, 0.1823870365122, 0.0892867156302],
            [-0.1462169491252, -0.1299250713291, -0.0494829307258],
            [0.07474627793294, -0.05246196518308, -0.0398037849044],
            [0.05695838856449, 0.03322572666262, 0.04271879142337],
            [-0.05695838856449, -0.03322572666262, -0.04271879142337],
        ],
        "stress": [
            [0.02105220367212, -0.001779179698767, 0.0005392325087981],
            [-0.001779179698767, 0.01653631504898, 0.002196472763612],
            [0.0005392325087981, 0.002196472763612, 0.01465359979571],
        ],
    },
    "gemnet-oc": {
        "energy": [-2.231745293069, 0.1187145909653],
        "forces": [
            [0.01125553460766, -0.01815992941897, 0.002357084109145],
            [-0.002372973780084, 0.007135972142139, 0.002381184434218],
            [0.003098501130162, -0.002161581279995, -0.02955725181925],
            [-0.06568776899365, -0.0383178652463, -0.04926582674524],
            [-0.07846510874232, -0.04577131343302, -0.05884883155674],
        ],
        "stress": [
            [-0.006623962838725, 0.003349823919844, 0.00181088733977],
            [0.003349823919844, -0.00510117617699, 0.001386503841306],
            [0.00181088733977, 0.001386503841306, 0.005384978931985],
        ],
    },
}
"""eV, eV/Å and, for the crystal, eV/Å³."""


def outputs_of(name: str) -> Outputs:
    """Of a crystal of three atoms and a molecule of two."""
    family, values = MODELS[name]
    architecture = host().architecture(family)
    config = architecture.config.parse(values)
    model = filled(architecture.model(config, DatasetInfo.any(), seed=0).double().eval())
    batch = collate(two_structures(), architecture.graph(config), torch.float64)
    return model_outputs(model, batch, derive=architecture.derives_forces(config)).detach()


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Every parameter gets values by a formula: sines, of order 1/√fan-in in matrices, around 1/2 in vectors."""
    for k, (_, parameter) in enumerate(sorted(model.named_parameters())):
        waves = torch.sin(1.0 + k + 0.7 * torch.arange(parameter.numel(), dtype=torch.float64)).view_as(parameter)
        parameter.copy_(waves * (2.0 / parameter.shape[-1]) ** 0.5 if parameter.dim() > 1 else 0.5 + 0.3 * waves)
    return model


def two_structures() -> list[Structure]:
    cell = np.array([[3.9, 0.2, -0.1], [0.8, 4.1, 0.3], [-0.4, 0.6, 4.4]])
    places = np.array([[0.1, 0.2, 0.1], [2.1, 1.8, 0.4], [0.3, 2.2, 2.5]])
    crystal = Structure(np.array([13, 8, 29]), places, cell, np.ones(3, dtype=bool))
    bond = np.array([[0.2, 0.1, -0.3], [1.4, 0.8, 0.6]])
    return [crystal, Structure(np.array([14, 8]), bond, np.zeros((3, 3)), np.zeros(3, dtype=bool))]


@pytest.mark.parametrize("name", MODELS)
def test_fixed_weights_give_the_numbers_they_gave_before(name: str) -> None:
    found = outputs_of(name)
    assert found.forces is not None
    assert found.stress is not None
    for what, value in (("energy", found.energy), ("forces", found.forces), ("stress", found.stress[0])):
        expected = torch.tensor(EXPECTED[name][what], dtype=torch.float64)
        assert_close(value, expected, rtol=1e-10, atol=1e-10, msg=lambda text, what=what: f"{what}: {text}")
