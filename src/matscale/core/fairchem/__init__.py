"""Import trained models of fairchem, each as a matscale run: `matscale import fairchem`.

    file -> FairchemCheckpoint (`unpickle`, `checkpoint`; for fairchem 2 also `inference`)
         -> Importer of its architecture (`importer`, from the hook `register_importers`)
         -> weights (`weights`), scales and references (`scales`) -> Potential -> run (`run`)

This package reads the parts that all files share; the plugin of an architecture adds an `Importer` for its own parts.
This module has the names that a plugin needs.
"""

from __future__ import annotations

from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.fairchem.importer import Importer, Role, copy_named

__all__ = ["FairchemCheckpoint", "Importer", "Role", "copy_named"]
