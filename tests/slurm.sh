#!/usr/bin/env bash
# A real Slurm with one node on this machine, in a folder of its own: slurm.sh start FOLDER | slurm.sh stop FOLDER
# Needs root and the Debian packages slurmctld, slurmd and munge. Ports are free ones of the loopback interface. What
# talks to it needs SLURM_CONF=FOLDER/slurm.conf. Installs nothing, and leaves a Slurm of the machine alone.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
action=$1 folder=$(readlink -m "$2")

stop() {
  for name in slurmd slurmctld munged; do
    [ -f "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
}

if [ "$action" = stop ]; then
  stop
  exit
fi

for program in slurmctld slurmd munged sbatch; do
  command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd needs root" >&2; exit 77; }
trap 'stop' ERR

host=$(hostname -s)
getent hosts "$host" >/dev/null || { echo "the name of this machine, $host, leads nowhere: add it to /etc/hosts" >&2; exit 77; }
ports=($(python3 -c "
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(('127.0.0.1', 0))
print(*(s.getsockname()[1] for s in sockets))"))

mkdir -p "$folder"/{state,spool,munge}
chmod 755 "$folder"
dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
chmod 600 "$folder/munge/key"
chown -R munge: "$folder/munge"
# munged wants nobody but its own user to be able to write to the folders above its files; a test's folder is private.
setpriv --reuid munge --regid munge --clear-groups munged --force --key-file "$folder/munge/key" \
  --socket "$folder/munge/socket" --pid-file "$folder/munge/pid" --log-file "$folder/munge/log" \
  --seed-file "$folder/munge/seed"
ln -sf munge/pid "$folder/munged.pid"

memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat >"$folder/slurm.conf" <<CONF
ClusterName=matscale
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MinJobAge=60
SlurmdTimeout=60
InactiveLimit=0
PropagateResourceLimits=NONE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -c
slurmd -c
for _ in $(seq 100); do
  if [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; then exit 0; fi
  sleep 0.1
done
echo "the node did not come up:" >&2
tail -n 5 "$folder"/slurmctld.log "$folder"/slurmd.log >&2
stop
exit 1
