#!/usr/bin/env bash
# A real Slurm for the tests, on 127.0.0.1: controller, accounting and two nodes with two pretended GPUs each, without
# systemd and without cgroups, from Debian's packages. Everything it writes is below one folder.
#
#   slurm.sh install                  the packages (root, apt); exit status 77 where that is not possible
#   slurm.sh start | stop | status
#   slurm.sh env                      lines for `eval`: how the clients find it
#   slurm.sh kill-node N | kill-slurmd N | start-node N     a node dies | its daemon alone dies | it comes back
#
# MAR_SLURM_DIR is the folder (default /tmp/mar-slurm-UID), MAR_SLURM_PORT the first of 20 ports (default 17100).
set -u
umask 022
D=${MAR_SLURM_DIR:-/tmp/mar-slurm-$(id -u)}
P=${MAR_SLURM_PORT:-17100}
NODES="1 2"
export SLURM_CONF=$D/etc/slurm.conf PATH=$PATH:/usr/sbin:/sbin
USER_NAME=$(id -un)
HOST=$(hostname -s)
PACKAGES="slurmctld slurmd slurm-client slurmdbd mariadb-server munge"

skip() { echo "SKIP: no Slurm for the tests: $*" >&2; exit 77; }
die() { echo "FAIL: $*" >&2; exit 1; }
runs() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
# clients try again in silence for minutes: every call is cut, and tried again up to the limit
until_ok() { local end=$((SECONDS + $1)); shift; while [ $SECONDS -lt $end ]; do timeout 3 "$@" >/dev/null 2>&1 && return; sleep 0.1; done; return 1; }

installed() { for b in slurmctld slurmd slurmdbd munged mariadbd sbatch; do command -v $b >/dev/null || return; done; }

install_packages() {
    installed && { slurmd -V; return; }
    command -v apt-get >/dev/null || skip "apt-get is missing (Debian and Ubuntu have it)"
    [ "$(id -u)" = 0 ] || skip "only root can install $PACKAGES"
    # the packages must not start their own daemons
    local policy=/usr/sbin/policy-rc.d ours=
    [ -e $policy ] || { ours=1; printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; }
    export DEBIAN_FRONTEND=noninteractive
    mkdir -p "$D"
    # another apt may be at work: that is no reason to skip
    local status end=$((SECONDS + 180))
    while :; do
        { apt-get update -qq; apt-get -o DPkg::Lock::Timeout=60 install -y -qq --no-install-recommends $PACKAGES; } \
            >"$D/apt.log" 2>&1
        status=$?
        [ $status != 0 ] && grep -Eqi "could not get lock|unable to lock|is held by" "$D/apt.log" || break
        [ $SECONDS -lt $end ] || { [ -z "$ours" ] || rm -f $policy; die "apt is busy, see $D/apt.log"; }
        sleep 5
    done
    [ -z "$ours" ] || rm -f $policy
    [ $status = 0 ] || skip "apt-get install $PACKAGES failed, see $D/apt.log"
    slurmd -V
}

configure() {
    mkdir -p "$D"/{etc,run,log,state,spool,munge,dev}
    chmod 755 "$D" "$D/munge"
    [ -s "$D/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$D/etc/munge.key")
    # A GPU needs a character device, or jobs see no CUDA_VISIBLE_DEVICES; a link to one is enough.
    ln -sfn /dev/null "$D/dev/gpu0"; ln -sfn /dev/null "$D/dev/gpu1"
    echo "NodeName=node[1-2] Name=gpu File=$D/dev/gpu[0-1]" >"$D/etc/gres.conf"
    # slurmd looks for a cgroup plugin even where nothing uses cgroups, and ends where there is none
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$D/etc/cgroup.conf"
    cat >"$D/etc/slurm.conf" <<END
ClusterName=martest
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=$USER_NAME
SlurmdUser=$USER_NAME
AuthType=auth/munge
# cred_expire is also how long a requeued job waits (120 s by default)
AuthInfo=socket=$D/munge/munge.sock,cred_expire=5
SlurmctldPort=$P
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmdLogFile=$D/log/slurmd.%n.log
SlurmdSpoolDir=$D/spool/%n
StateSaveLocation=$D/state
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
OverTimeLimit=0
MinJobAge=300
MessageTimeout=10
SchedulerParameters=batch_sched_delay=0,bf_interval=2,requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# more CPUs and memory than there are: nothing is pinned and nothing measured against them
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerNode=4000
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((P + 9))
# the socket of munge for this connection; AuthInfo is not used for it
AccountingStoragePass=$D/munge/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
NodeName=node[1-2] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((P + 11))-$((P + 12)) CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=gpu Nodes=ALL Default=YES DefaultTime=10 MaxTime=60
END
    (umask 077; cat >"$D/etc/slurmdbd.conf" <<END
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$((P + 9))
CommunicationParameters=NoInAddrAny
SlurmUser=$USER_NAME
AuthType=auth/munge
AuthInfo=socket=$D/munge/munge.sock
PidFile=$D/run/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((P + 8))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
END
    )
}

start_database() {
    runs "$D/run/mariadbd.pid" && return
    [ -d "$D/db/mysql" ] || mariadb-install-db --no-defaults --user="$USER_NAME" --datadir="$D/db" --skip-test-db \
        --auth-root-authentication-method=normal >"$D/log/install-db.log" 2>&1 || die "mariadb-install-db, see $D/log"
    mariadbd --no-defaults --user="$USER_NAME" --datadir="$D/db" --bind-address=127.0.0.1 --port=$((P + 8)) \
        --socket="$D/run/my.sock" --pid-file="$D/run/mariadbd.pid" --innodb-buffer-pool-size=32M \
        --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF \
        >"$D/log/mariadbd.log" 2>&1 </dev/null &
    local sql="mariadb --no-defaults -u root -S $D/run/my.sock -e"
    until_ok 30 $sql "select 1" || die "mariadbd: $(tail -3 "$D/log/mariadbd.log")"
    $sql "create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm';
          create user if not exists 'slurm'@'localhost' identified by 'slurm';
          grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
          grant all on slurm_acct_db.* to 'slurm'@'localhost';" || die "grants of mariadb"
}

start_node() {
    mkdir -p "$D/spool/node$1"
    runs "$D/run/slurmd.node$1.pid" || slurmd -N "node$1" || die "slurmd: $(tail -3 "$D/log/slurmd.node$1.log")"
}

nodes_up() { [ "$(sinfo -h -N -t idle,mix,alloc -o %N | sort -u | wc -l)" = 2 ]; }
nodes_come_up() { local end=$((SECONDS + 40)); while [ $SECONDS -lt $end ]; do nodes_up && return; sleep 0.2; done; return 1; }

start() {
    installed || skip "the packages are missing (slurm.sh install)"
    configure
    # distributed jobs meet at the first node by its name
    getent hosts node2 >/dev/null || { [ -w /etc/hosts ] && echo "127.0.0.1 node1 node2 # mar test cluster $D" >>/etc/hosts; } ||
        skip "node1 and node2 do not resolve and /etc/hosts is not ours to write"
    runs "$D/run/munged.pid" || munged --key-file="$D/etc/munge.key" --socket="$D/munge/munge.sock" --num-threads=4 \
        --pid-file="$D/run/munged.pid" --log-file="$D/log/munged.log" --seed-file="$D/state/munged.seed" ||
        die "munged: $(tail -2 "$D/log/munged.log")"
    start_database
    runs "$D/run/slurmdbd.pid" || slurmdbd || die slurmdbd
    until_ok 30 sacctmgr -n list cluster || die "slurmdbd: $(tail -3 "$D/log/slurmdbd.log")"
    timeout 10 sacctmgr -n -i add cluster martest >/dev/null 2>&1
    runs "$D/run/slurmctld.pid" || slurmctld || die slurmctld
    until_ok 30 scontrol ping || die "slurmctld: $(tail -3 "$D/log/slurmctld.log")"
    for n in $NODES; do start_node "$n"; done
    nodes_come_up || die "the nodes do not come up: $(sinfo -N -l)"
    echo "up: $(sinfo -h -o '%D nodes %t, %G')"
}

end() { # PIDFILE NAME [SIGNAL]: only what still is the program that we started
    local pid; pid=$(cat "$1" 2>/dev/null) || return 0
    rm -f "$1"
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
    kill "-${3:-TERM}" "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$pid"
}

tree() { local child; for child in $(ps -o pid= --ppid "$1"); do tree "$child"; echo "$child"; done; }

kill_node() { # the daemon, and its steps with all their processes
    end "$D/run/slurmd.node$1.pid" slurmd KILL
    for step in $(pgrep -x slurmstepd); do
        ls -l "/proc/$step/fd" 2>/dev/null | grep -q "$D/log/slurmd.node$1.log" && kill -9 $(tree "$step") "$step"
    done
    return 0
}

stop() {
    runs "$D/run/slurmctld.pid" && timeout 5 scancel -u "$USER_NAME" 2>/dev/null && sleep 1
    for n in $NODES; do kill_node "$n"; done
    end "$D/run/slurmctld.pid" slurmctld
    end "$D/run/slurmdbd.pid" slurmdbd
    end "$D/run/mariadbd.pid" mariadbd
    end "$D/run/munged.pid" munged
    if grep -q "# mar test cluster $D\$" /etc/hosts && [ -w /etc/hosts ]; then
        grep -v "# mar test cluster $D\$" /etc/hosts >"$D/hosts"; cat "$D/hosts" >/etc/hosts
    fi
    echo stopped
}

case ${1:-} in
install) install_packages ;;
start) start ;;
stop) stop ;;
status) sinfo -N -l; squeue ;;
env) echo "export SLURM_CONF=$SLURM_CONF" ;;
kill-node) kill_node "$2" ;;
kill-slurmd) end "$D/run/slurmd.node$2.pid" slurmd KILL ;;
start-node) start_node "$2" ; nodes_come_up ;;
*) sed -n '2,10p' "$0"; exit 2 ;;
esac
