"""Presets of the launcher `command`: the commands of each engine that start, list and end jobs.

`sge` and `hyperqueue` were tested on real engines (tests/plugins/launchers), the others follow their manual pages:

- sge: qsub(1), qstat(1), qdel(1) of Grid Engine 8.1.9; with `-notify`, a job gets USR2 before SIGKILL
- pbs: qsub(1B), qstat(1B), qdel(1B) of OpenPBS 23 and TORQUE 6
- lsf: bsub(1), bjobs(1), bkill(1) of IBM Spectrum LSF 10.1; bsub joins its arguments to a shell command
- flux: flux-submit(1), flux-jobs(1), flux-cancel(1) of flux-core 0.60
- hq: `hq submit`, `hq job list` and `hq job cancel` of HyperQueue 0.20, https://it4innovations.github.io/hyperqueue
- hyperqueue: the Python package of HyperQueue, by the program hyperqueue_client.py
"""

from __future__ import annotations

from typing import Any

_CLIENT = "{python} -P -m matscale.plugins.launchers.hyperqueue_client"

PRESETS: dict[str, dict[str, Any]] = {
    "sge": {
        "submit": "qsub -terse -notify -S /bin/bash -N {name} -j y -o /dev/null {options} {script}",
        "id": r"^(?:Your job )?(\d+)",
        "state": "qstat -u {user}",
        "states": r"^\s*(?P<id>\d+)\s+\S+\s+\S+\s+\S+\s+(?P<state>[A-Za-z]+)\s",
        "queued": r"[a-zA-Z]*w|[a-zA-Z]*q",
        "running": r"[RSTNPdhrst]+",
        "failed": r"[a-zA-Z]*E[a-zA-Z]*",
        "cancel": "qdel {id}",
        "cores": "NSLOTS",
    },
    "pbs": {
        "submit": "qsub -S /bin/bash -N {name} -j oe -o /dev/null {options} {script}",
        "id": r"^(\d+)",
        "state": "qstat -u {user}",
        "states": r"^(?P<id>\d+)\S*(?:\s+\S+){8}\s+(?P<state>[A-Z])\b",
        "queued": "[HQTW]",
        "running": "[BERSU]",
        "done": "[CFMX]",
        "cancel": "qdel {id}",
        "cores": "NCPUS",
    },
    "lsf": {
        "submit": "bsub -J {name} -o /dev/null {options} {line}",
        "id": r"Job <(\d+)>",
        "state": "bjobs -a -noheader -o 'jobid stat'",
        "states": r"^(?P<id>\d+)\s+(?P<state>\w+)",
        "none": r"No (?:\w+ )?job found",
        "queued": "PEND|PSUSP|WAIT|FWD_PEND|PROV",
        "running": "RUN|USUSP|SSUSP|UNKWN",
        "done": "DONE|EXIT|ZOMBI",
        "cancel": "bkill {id}",
        "cores": "LSB_DJOB_NUMPROC",
    },
    "flux": {
        "submit": "flux submit --job-name={name} {options} bash {script}",
        "id": r"^([ƒf]\w+)\s*$",
        "state": "flux jobs -a -n --count=100000 -o '{{id.f58}} {{status}}'",
        "states": r"^(?P<id>\S+) (?P<state>\w+)",
        "queued": "NEW|DEPEND|PRIORITY|SCHED",
        "running": "RUN|CLEANUP",
        "done": "COMPLETED|FAILED|TIMEOUT|INACTIVE",
        "cancelled": "CANCELED",
        "cancel": "flux cancel {id}",
    },
    "hq": {
        "submit": "hq --output-mode=quiet submit --name {name} --stdout none --stderr none {options} -- bash {script}",
        "id": r"^(\d+)\s*$",
        "state": "hq job list --all",
        "states": r"^\|\s*(?P<id>\d+)\s*\|\s*(?P<name>\S+)\s*\|\s*(?P<state>\w+)\s*\|",
        "queued": "WAITING|OPENED",
        "running": "RUNNING",
        "done": "FINISHED|FAILED",
        "cancelled": "CANCELED",
        "cancel": "hq job cancel {id}",
        "cores": "HQ_CPUS",
    },
    "hyperqueue": {
        "submit": f"{_CLIENT} submit {{options}} {{scripts}}",
        "id": r"^(\w+\.\d+)$",
        "state": f"{_CLIENT} state {{ids}}",
        "states": r"^(?P<id>\S+) (?P<state>\w+)$",
        "none": "^none of these jobs$",
        "queued": "LISTED",  # the package does not tell which jobs run: their locks do
        "done": "FINISHED|FAILED",
        "cancel": f"{_CLIENT} cancel {{id}}",
        "cores": "HQ_CPUS",
    },
}
