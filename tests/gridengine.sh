#!/usr/bin/env bash
# A real Grid Engine of one node on this machine, in a folder of its own: gridengine.sh start FOLDER | stop FOLDER
# Needs root and the Debian packages gridengine-master, gridengine-exec and gridengine-client. Ports are free ones. What
# talks to it needs the variables in FOLDER/environment. Installs nothing, and leaves a Grid Engine of the machine alone.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
action=$1 folder=$(readlink -m "$2")
tools=/usr/lib/gridengine shared=/usr/share/gridengine

stop() {
  for file in "$folder"/execd/*/execd.pid "$folder/qmaster/qmaster.pid"; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do grep -qs '^State:.[^Z]' "/proc/$pid/status" || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
}

if [ "$action" = stop ]; then
  stop
  exit
fi

for program in sge_qmaster sge_execd qsub qconf "$tools/spoolinit"; do
  command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "sge_execd needs root" >&2; exit 77; }
# The name that Grid Engine itself gives this machine: that of its address, often localhost.
host=$(SGE_ROOT=/var/lib/gridengine "$tools/gethostname" -aname 2>/dev/null) || { echo "the name of this machine, $(hostname), leads nowhere: add it to /etc/hosts" >&2; exit 77; }
ports=($(python3 -c "
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(('127.0.0.1', 0))
print(*(s.getsockname()[1] for s in sockets))"))
trap 'stop' ERR

mkdir -p "$folder"/{cell/common,qmaster/job_scripts,spooldb,execd}
chmod 755 "$folder"
ln -sfn /var/lib/gridengine/util "$folder/util"
ln -sfn /var/lib/gridengine/bin "$folder/bin"
cat >"$folder/environment" <<CONF
SGE_ROOT=$folder
SGE_CELL=cell
SGE_QMASTER_PORT=${ports[0]}
SGE_EXECD_PORT=${ports[1]}
CONF
set -a
. "$folder/environment"
set +a
echo "$host" >"$folder/cell/common/act_qmaster"
# Its daemons name a peer by its address, the first name of which is often localhost.
address=$(getent hosts "$host" | awk 'NR == 1 {print $1}')
echo "$host $(getent hosts "$address" | awk '{$1 = ""; print}') localhost" >"$folder/cell/common/host_aliases"
cat >"$folder/cell/common/bootstrap" <<CONF
admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params $folder/spooldb
binary_path /usr/sbin
qmaster_spool_dir $folder/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
CONF
sed -e "s,^execd_spool_dir.*,execd_spool_dir $folder/execd," -e 's,^min_[ug]id.*,,' -e 's,^mailer.*,mailer /bin/true,' \
  -e 's,^load_report_time.*,load_report_time 00:00:01,' "$shared/default-configuration" >"$folder/configuration"
{
  "$tools/spoolinit" berkeleydb libspoolb "$folder/spooldb" init
  "$tools/spooldefaults" configuration "$folder/configuration"
  "$tools/spooldefaults" complexes "$shared/util/resources/centry"
  "$tools/spooldefaults" usersets "$shared/util/resources/usersets"
  "$tools/spooldefaults" managers root
} >"$folder/set-up.log"
sge_qmaster >>"$folder/set-up.log" 2>&1

for _ in $(seq 100); do
  if "$tools/qconf" -ah "$host" >/dev/null 2>&1; then break; fi # it is not up yet
  sleep 0.1
done
{
  "$tools/qconf" -as "$host"
  sge_execd
  "$tools/qconf" -Ap "$shared/util/resources/pe/smp"
  "$tools/qconf" -sq | sed -e 's,^qname .*,qname main,' -e "s,^hostlist .*,hostlist $host," -e 's,^slots .*,slots 2,' -e 's,^pe_list .*,pe_list smp,' \
    -e 's,^load_thresholds .*,load_thresholds NONE,' -e 's,^notify .*,notify 00:01:00,' \
    -e 's,^shell .*,shell /bin/bash,' >"$folder/queue"
  "$tools/qconf" -Aq "$folder/queue"
  "$tools/qconf" -ssconf | sed -e 's,^schedule_interval .*,schedule_interval 0:0:1,' \
    -e 's,^\(flush_[a-z]*_sec\) .*,\1 1,' >"$folder/scheduler"
  "$tools/qconf" -Msconf "$folder/scheduler"
} >>"$folder/set-up.log" 2>&1
for _ in $(seq 100); do
  # The state of a queue whose node has not been heard of yet is "au".
  if "$tools/qstat" -f 2>/dev/null | awk '/^main@/ {found = NF == 5} END {exit !found}'; then exit 0; fi
  sleep 0.1
done
echo "the node did not come up:" >&2
tail -n 5 "$folder/set-up.log" "$folder"/qmaster/messages >&2
stop
exit 1
