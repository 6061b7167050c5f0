"""Import of models that fairchem trained, as matscale runs: `matscale import fairchem`.

    file -> Checkpoint (`unpickle`, `checkpoint`; of fairchem 2 by `inference`)
         -> Importer of its architecture (`importer`, from the hook `register_importers`)
         -> weights (`weights`), scales and references (`scales`) -> Potential -> run (`run`)

What all files have in common is here; what only one architecture knows, its plugin brings as an `Importer`. Names in
this module are those that a plugin needs.
"""

from __future__ import annotations

from matscale.core.fairchem.checkpoint import Checkpoint
from matscale.core.fairchem.importer import Importer, Role, copy_named

__all__ = ["Checkpoint", "Importer", "Role", "copy_named"]
