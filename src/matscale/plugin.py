"""Public interface for plugin authors: everything that a plugin needs to import.

Files of `matscale.core` may move, but the names here stay. Names are imported at their first use, so that a plugin
which does not need torch, such as a reader, does not wait for it.

```python
from matscale.plugin import Architecture, ArchitectureConfig, AtomicBatch, Outputs, hookimpl
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matscale.core.config import Config as Config
    from matscale.core.config import to_toml as to_toml
    from matscale.core.data.batch import AtomicBatch as AtomicBatch
    from matscale.core.data.batch import BatchShape as BatchShape
    from matscale.core.data.graph import Graph as Graph
    from matscale.core.data.neighbors import collate as collate
    from matscale.core.data.neighbors import neighbors as neighbors
    from matscale.core.data.sources.labels import CALCULATOR as CALCULATOR
    from matscale.core.data.sources.labels import Unusable as Unusable
    from matscale.core.data.sources.limits import current as current_limits
    from matscale.core.data.sources.limits import shown as bytes_as_text
    from matscale.core.data.sources.lines import Lines as Lines
    from matscale.core.data.sources.reader import Frame as Frame
    from matscale.core.data.sources.reader import Reader as Reader
    from matscale.core.data.sources.reader import from_ase as from_ase
    from matscale.core.data.store.packed import PackedDataset as PackedDataset
    from matscale.core.data.structure import Structure as Structure
    from matscale.core.data.structure import whole_numbers as whole_numbers
    from matscale.core.data.synthetic.labelers import MPTRJ_ELEMENTS as MPTRJ_ELEMENTS
    from matscale.core.data.synthetic.labelers import Labeler as Labeler
    from matscale.core.data.synthetic.labelers import needs as needs_package
    from matscale.core.errors import ConfigError as ConfigError
    from matscale.core.errors import DataError as DataError
    from matscale.core.errors import MatscaleError as MatscaleError
    from matscale.core.errors import PluginError as PluginError
    from matscale.core.fairchem import FairchemCheckpoint as FairchemCheckpoint
    from matscale.core.fairchem import Importer as Importer
    from matscale.core.fairchem import Role as Role
    from matscale.core.fairchem import copy_named as copy_named
    from matscale.core.fairchem.importer import renamed as renamed_options
    from matscale.core.fairchem.importer import rewritten as rewrite_name
    from matscale.core.files import make_folder as make_folder
    from matscale.core.files import remove as remove_path
    from matscale.core.files import write_blocks as write_blocks
    from matscale.core.files import write_text as write_text
    from matscale.core.flops import flops_of_kernel as flops_of_kernel
    from matscale.core.hookspecs import hookimpl as hookimpl
    from matscale.core.hosting.host import host as host
    from matscale.core.hosting.tracker import Tracker as Tracker
    from matscale.core.inference.load import load as load_run
    from matscale.core.locks import CLAIM as CLAIM_FILE
    from matscale.core.locks import claim as claim_run
    from matscale.core.locks import is_claimed as is_run_claimed
    from matscale.core.model import sphere as sphere
    from matscale.core.model.activation_checkpointing import checkpoint_like as checkpoint_like
    from matscale.core.model.architecture import CLAIMS as CLAIMS
    from matscale.core.model.architecture import Architecture as Architecture
    from matscale.core.model.architecture import ArchitectureConfig as ArchitectureConfig
    from matscale.core.model.architecture import DatasetInfo as DatasetInfo
    from matscale.core.model.architecture import closest as closest
    from matscale.core.model.architecture import count_parameters as count_parameters
    from matscale.core.model.architecture import graded as graded
    from matscale.core.model.architecture import steps_between as steps_between
    from matscale.core.model.attention import attention_kept as attention_kept
    from matscale.core.model.attention import hand_attention as hand_attention
    from matscale.core.model.attention import is_attention_wanted as is_attention_wanted
    from matscale.core.model.isolation import isolation as isolation
    from matscale.core.model.layers.elements import check_batch_elements as check_batch_elements
    from matscale.core.model.layers.elements import check_data_elements as check_data_elements
    from matscale.core.model.layers.heads import DirectHeads as DirectHeads
    from matscale.core.model.layers.heads import head_widths as head_widths
    from matscale.core.model.layers.heads import mean_by_structure as mean_by_structure
    from matscale.core.model.layers.heads import sum_by_structure as sum_by_structure
    from matscale.core.model.layers.linear_rows import LinearRows as LinearRows
    from matscale.core.model.layers.linear_rows import is_plain_wanted as is_plain_wanted
    from matscale.core.model.layers.padding import Padding as Padding
    from matscale.core.model.layers.radial import GaussianBasis as GaussianBasis
    from matscale.core.model.layers.radial import ShiftedSoftplus as ShiftedSoftplus
    from matscale.core.model.layers.radial import cosine_cutoff as cosine_cutoff
    from matscale.core.model.layers.radial import polynomial_cutoff as polynomial_cutoff
    from matscale.core.model.outputs import Outputs as Outputs
    from matscale.core.model.outputs import model_outputs as model_outputs
    from matscale.core.model.potential import Potential as Potential
    from matscale.core.model.reference_path import is_counted as is_counted
    from matscale.core.model.reference_path import is_reference_path_wanted as is_reference_path_wanted
    from matscale.core.model.reference_path import reference_path as reference_path
    from matscale.core.precision import full_precision as full_precision
    from matscale.core.precision import refuse_half as refuse_half
    from matscale.core.precision import times_matrix as times_matrix
    from matscale.core.runs.config import Positive as Positive
    from matscale.core.runs.config import Seconds as Seconds
    from matscale.core.runs.record import CONFIG as CONFIG
    from matscale.core.runs.record import INFO as INFO
    from matscale.core.runs.record import LOG as LOG
    from matscale.core.runs.record import PLANNED as PLANNED
    from matscale.core.runs.record import Run as Run
    from matscale.core.runs.trained_potential import resolve_step as resolve_step
    from matscale.core.scaling.law import Array as Array
    from matscale.core.scaling.law import Law as Law
    from matscale.core.scaling.solve import amplitudes as amplitudes
    from matscale.core.scaling.solve import best_of as best_of
    from matscale.core.scaling.solve import log_amplitudes as log_amplitudes
    from matscale.core.scoped import Scoped as Scoped
    from matscale.core.study.launcher import Ended as Ended
    from matscale.core.study.launcher import Job as Job
    from matscale.core.study.launcher import Launcher as Launcher
    from matscale.core.study.launcher import Pool as Pool
    from matscale.core.study.preload import preload_training as preload_training
    from matscale.core.threads import usable_cores as usable_cores
    from matscale.core.train.loss import Loss as Loss
    from matscale.version import API_VERSION as API_VERSION
    from matscale.version import __version__ as __version__

__all__ = [
    "API_VERSION",
    "CALCULATOR",
    "CLAIMS",
    "CLAIM_FILE",
    "CONFIG",
    "INFO",
    "LOG",
    "MPTRJ_ELEMENTS",
    "PLANNED",
    "Architecture",
    "ArchitectureConfig",
    "Array",
    "AtomicBatch",
    "BatchShape",
    "Config",
    "ConfigError",
    "DataError",
    "DatasetInfo",
    "DirectHeads",
    "Ended",
    "FairchemCheckpoint",
    "Frame",
    "GaussianBasis",
    "Graph",
    "Importer",
    "Job",
    "Labeler",
    "Launcher",
    "Law",
    "LinearRows",
    "Lines",
    "Loss",
    "MatscaleError",
    "Outputs",
    "PackedDataset",
    "Padding",
    "PluginError",
    "Pool",
    "Positive",
    "Potential",
    "Reader",
    "Role",
    "Run",
    "Scoped",
    "Seconds",
    "ShiftedSoftplus",
    "Structure",
    "Tracker",
    "Unusable",
    "__version__",
    "amplitudes",
    "attention_kept",
    "best_of",
    "bytes_as_text",
    "check_batch_elements",
    "check_data_elements",
    "checkpoint_like",
    "claim_run",
    "closest",
    "collate",
    "copy_named",
    "cosine_cutoff",
    "count_parameters",
    "current_limits",
    "flops_of_kernel",
    "from_ase",
    "full_precision",
    "graded",
    "hand_attention",
    "head_widths",
    "hookimpl",
    "host",
    "is_attention_wanted",
    "is_counted",
    "is_plain_wanted",
    "is_reference_path_wanted",
    "is_run_claimed",
    "isolation",
    "load_run",
    "log_amplitudes",
    "make_folder",
    "mean_by_structure",
    "model_outputs",
    "needs_package",
    "neighbors",
    "polynomial_cutoff",
    "preload_training",
    "reference_path",
    "refuse_half",
    "remove_path",
    "renamed_options",
    "resolve_step",
    "rewrite_name",
    "sphere",
    "steps_between",
    "sum_by_structure",
    "times_matrix",
    "to_toml",
    "usable_cores",
    "whole_numbers",
    "write_blocks",
    "write_text",
]

_LAZY = {
    "preload_training": "matscale.core.study.preload:preload_training",
    "Pool": "matscale.core.study.launcher:Pool",
    "reference_path": "matscale.core.model.reference_path:reference_path",
    "flops_of_kernel": "matscale.core.flops:flops_of_kernel",
    "API_VERSION": "matscale.version:API_VERSION",
    "__version__": "matscale.version:__version__",
    # Architectures
    "hookimpl": "matscale.core.hookspecs:hookimpl",
    "CLAIMS": "matscale.core.model.architecture:CLAIMS",
    "Architecture": "matscale.core.model.architecture:Architecture",
    "ArchitectureConfig": "matscale.core.model.architecture:ArchitectureConfig",
    "BatchShape": "matscale.core.data.batch:BatchShape",
    "DatasetInfo": "matscale.core.model.architecture:DatasetInfo",
    "closest": "matscale.core.model.architecture:closest",
    "count_parameters": "matscale.core.model.architecture:count_parameters",
    "graded": "matscale.core.model.architecture:graded",
    "steps_between": "matscale.core.model.architecture:steps_between",
    "Config": "matscale.core.config:Config",
    "to_toml": "matscale.core.config:to_toml",
    "Positive": "matscale.core.runs.config:Positive",
    "Seconds": "matscale.core.runs.config:Seconds",
    # Structures, batches, predictions
    "Structure": "matscale.core.data.structure:Structure",
    "whole_numbers": "matscale.core.data.structure:whole_numbers",
    "Graph": "matscale.core.data.graph:Graph",
    "collate": "matscale.core.data.neighbors:collate",
    "neighbors": "matscale.core.data.neighbors:neighbors",
    "PackedDataset": "matscale.core.data.store.packed:PackedDataset",
    "AtomicBatch": "matscale.core.data.batch:AtomicBatch",
    "Outputs": "matscale.core.model.outputs:Outputs",
    "model_outputs": "matscale.core.model.outputs:model_outputs",
    "Potential": "matscale.core.model.potential:Potential",
    # Building blocks of models
    "DirectHeads": "matscale.core.model.layers.heads:DirectHeads",
    "head_widths": "matscale.core.model.layers.heads:head_widths",
    "mean_by_structure": "matscale.core.model.layers.heads:mean_by_structure",
    "sum_by_structure": "matscale.core.model.layers.heads:sum_by_structure",
    "check_batch_elements": "matscale.core.model.layers.elements:check_batch_elements",
    "check_data_elements": "matscale.core.model.layers.elements:check_data_elements",
    "Padding": "matscale.core.model.layers.padding:Padding",
    "full_precision": "matscale.core.precision:full_precision",
    "refuse_half": "matscale.core.precision:refuse_half",
    "times_matrix": "matscale.core.precision:times_matrix",
    "GaussianBasis": "matscale.core.model.layers.radial:GaussianBasis",
    "ShiftedSoftplus": "matscale.core.model.layers.radial:ShiftedSoftplus",
    "cosine_cutoff": "matscale.core.model.layers.radial:cosine_cutoff",
    "polynomial_cutoff": "matscale.core.model.layers.radial:polynomial_cutoff",
    "sphere": "matscale.core.model:sphere",
    "LinearRows": "matscale.core.model.layers.linear_rows:LinearRows",
    "is_plain_wanted": "matscale.core.model.layers.linear_rows:is_plain_wanted",
    "attention_kept": "matscale.core.model.attention:attention_kept",
    "hand_attention": "matscale.core.model.attention:hand_attention",
    "is_attention_wanted": "matscale.core.model.attention:is_attention_wanted",
    "Scoped": "matscale.core.scoped:Scoped",
    "is_counted": "matscale.core.model.reference_path:is_counted",
    "is_reference_path_wanted": "matscale.core.model.reference_path:is_reference_path_wanted",
    "checkpoint_like": "matscale.core.model.activation_checkpointing:checkpoint_like",
    "isolation": "matscale.core.model.isolation:isolation",
    # Readers and labelers
    "Frame": "matscale.core.data.sources.reader:Frame",
    "Reader": "matscale.core.data.sources.reader:Reader",
    "from_ase": "matscale.core.data.sources.reader:from_ase",
    "CALCULATOR": "matscale.core.data.sources.labels:CALCULATOR",
    "Unusable": "matscale.core.data.sources.labels:Unusable",
    "current_limits": "matscale.core.data.sources.limits:current",
    "bytes_as_text": "matscale.core.data.sources.limits:shown",
    "Lines": "matscale.core.data.sources.lines:Lines",
    "MPTRJ_ELEMENTS": "matscale.core.data.synthetic.labelers:MPTRJ_ELEMENTS",
    "Labeler": "matscale.core.data.synthetic.labelers:Labeler",
    "needs_package": "matscale.core.data.synthetic.labelers:needs",
    # Losses, laws, trackers
    "Loss": "matscale.core.train.loss:Loss",
    "Array": "matscale.core.scaling.law:Array",
    "Law": "matscale.core.scaling.law:Law",
    "amplitudes": "matscale.core.scaling.solve:amplitudes",
    "best_of": "matscale.core.scaling.solve:best_of",
    "log_amplitudes": "matscale.core.scaling.solve:log_amplitudes",
    "Tracker": "matscale.core.hosting.tracker:Tracker",
    # Launchers
    "CLAIM_FILE": "matscale.core.locks:CLAIM",
    "Ended": "matscale.core.study.launcher:Ended",
    "Job": "matscale.core.study.launcher:Job",
    "Launcher": "matscale.core.study.launcher:Launcher",
    "claim_run": "matscale.core.locks:claim",
    "is_run_claimed": "matscale.core.locks:is_claimed",
    "usable_cores": "matscale.core.threads:usable_cores",
    "make_folder": "matscale.core.files:make_folder",
    "remove_path": "matscale.core.files:remove",
    "write_blocks": "matscale.core.files:write_blocks",
    "write_text": "matscale.core.files:write_text",
    # Importers of checkpoints
    "FairchemCheckpoint": "matscale.core.fairchem:FairchemCheckpoint",
    "Importer": "matscale.core.fairchem:Importer",
    "Role": "matscale.core.fairchem:Role",
    "copy_named": "matscale.core.fairchem:copy_named",
    "renamed_options": "matscale.core.fairchem.importer:renamed",
    "rewrite_name": "matscale.core.fairchem.importer:rewritten",
    # Runs, and what else is installed
    "CONFIG": "matscale.core.runs.record:CONFIG",
    "INFO": "matscale.core.runs.record:INFO",
    "LOG": "matscale.core.runs.record:LOG",
    "PLANNED": "matscale.core.runs.record:PLANNED",
    "Run": "matscale.core.runs.record:Run",
    "load_run": "matscale.core.inference.load:load",
    "resolve_step": "matscale.core.runs.trained_potential:resolve_step",
    "host": "matscale.core.hosting.host:host",
    # Errors
    "ConfigError": "matscale.core.errors:ConfigError",
    "DataError": "matscale.core.errors:DataError",
    "MatscaleError": "matscale.core.errors:MatscaleError",
    "PluginError": "matscale.core.errors:PluginError",
}
"""Module that defines each public name, as `module:name`."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'matscale.plugin' has no name {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    holder = import_module(module)
    # A package such as `sphere` becomes an attribute of the one that holds it only when it is imported.
    value = getattr(holder, attribute) if hasattr(holder, attribute) else import_module(f"{module}.{attribute}")
    globals()[name] = value
    return value
