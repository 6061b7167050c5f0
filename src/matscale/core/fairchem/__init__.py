"""Import of models that fairchem trained, as matscale runs: `matscale import fairchem`.

    file -> FairchemCheckpoint (`unpickle`, `checkpoint`; of fairchem 2 by `inference`)
         -> Importer of its architecture (`importer`, from the hook `register_importers`)
         -> weights (`weights`), scales and references (`scales`) -> Potential -> run (`run`)

This package reads what all files have in common; the plugin of an architecture adds an `Importer` for the rest. This
module holds the names that a plugin needs.
"""

from __future__ import annotations

from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.fairchem.importer import Importer, Role, copy_named

__all__ = ["FairchemCheckpoint", "Importer", "Role", "copy_named"]
