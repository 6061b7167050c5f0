"""Little distributions, installed for real: modules and a `.dist-info` in a folder that is put on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.hosting import host as manager
from matscale.core.hosting.catalogue import discover
from matscale.core.hosting.host import Host


class Site:
    """A folder like `site-packages`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        distribution: str,
        source: str,
        *,
        name: str = "",
        module: str = "",
        version: str = "1.0",
        requires: tuple[str, ...] = (),
    ) -> None:
        """A distribution with one module and one plugin; names default to what follows the last `-`."""
        name = name or distribution.rpartition("-")[2]
        module = module or distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(dedent(source))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(f"[matscale]\n{name} = {module}\n")

    def host(self, blocked: tuple[str, ...] = (), only_builtin: bool = False) -> Host:
        """A host that knows this folder only; a distribution called `matscale` plays the built-in one."""
        return Host(discover([str(self.folder)]), blocked=blocked, only_builtin=only_builtin)

    def run(self, *arguments: str, **environment: str) -> Result:
        """`matscale ARGUMENTS` with what is installed here (on sys.path: the fixture `site`) beside the built-ins."""
        manager.host.cache_clear()
        try:
            return CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        finally:
            manager.host.cache_clear()

    def python(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python in a process of its own, which sees this folder."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"} | environment,
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def architecture(*names: str) -> str:
    """Source of a plugin whose architectures have these names: a linear model, just enough to build and train."""
    return dedent(
        f'''
        import torch
        from torch import nn

        from matscale import hookimpl
        from matscale.core.model.architecture import Architecture, ArchitectureConfig, closest
        from matscale.core.model.outputs import Outputs


        class LinearConfig(ArchitectureConfig):
            width: int = 4
            """Channels."""


        class Linear(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.element = nn.Embedding(119, config.width)
                self.energy = nn.Linear(config.width, 1)
                self.vector = nn.Linear(config.width + 3, 3)
                self.tensor = nn.Linear(config.width, 9)

            def forward(self, batch):
                z = self.element(batch.atomic_numbers)
                sums = lambda x: x.new_zeros(batch.n_structures, x.shape[1]).index_add(0, batch.batch, x)
                stress = (sums(self.tensor(z)) / batch.atoms_per_structure[:, None]).view(-1, 3, 3)
                return Outputs(
                    energy=sums(self.energy(z))[:, 0],
                    forces=self.vector(torch.cat([z, batch.positions], 1)),
                    stress=0.5 * (stress + stress.transpose(1, 2)),
                )


        def build(config, info):
            return Linear(config)


        def ladder(n_params):
            return closest(n_params, lambda width: LinearConfig(width=width), build)


        @hookimpl
        def register_architectures():
            return [
                Architecture(
                    name=name, summary="linear", reference="none", config=LinearConfig, build=build, ladder=ladder,
                    dial="channels", claims=frozenset({{"permutation"}}),
                )
                for name in {names!r}
            ]
        '''
    )


def install_faulty(site: Site) -> None:
    """The plugins that must disturb nobody: each has one fault, and none is asked for."""
    site.install("a-broken", "1 / 0")
    site.install("a-quitter", "raise SystemExit")
    site.install("a-future", "API_VERSION = (9, 0)")
    site.install("a-typo", "from matscale import hookimpl\n@hookimpl\ndef run_start(run): pass\n")
    site.install("a-schnet", architecture("schnet"))
    site.install("a-twin", architecture("twin"))
    site.install("b-twin", architecture("twin"))
