# shellcheck shell=bash
# Shell functions for tests that need a running vfio-brokerd: start and stop it with a policy, run programs as an
# ordinary user, bind devices, count pins, fds and sessions. Whatever is started through these functions ends with the script.
#
# Use: build=DIR; . tests/lib/broker.sh; broker_setup
#   $build        the build tree
#   $work         a new directory, world-readable, removed at the end
#   $broker_pid   the daemon; $broker_socket its socket (exported as VFIO_BROKER_SOCKET)
#   $client_uid   whom as_client runs programs as: 1000 when we are root, else ourselves

: "${build:=}" # set by the script that reads us
client_uid=$(id -u)
[ "$client_uid" != 0 ] || client_uid=1000
broker_pid=
children=() # processes to end, clients first

# broker_setup: makes $work and promises to clean up.
broker_setup() {
	work=$(mktemp -d "${TMPDIR:-/tmp}/vfio-broker-test.XXXXXX")
	chmod 755 "$work"
	broker_socket=$work/run/broker.sock
	export VFIO_BROKER_SOCKET=$broker_socket
	trap 'broker_cleanup' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	stage vfio-brokerctl
}

broker_cleanup() {
	local p
	trap - EXIT
	for p in "${children[@]}"; do kill -KILL "$p" 2>/dev/null || :; done
	broker_stop || :
	rm -rf "$work"
}

# program NAME: its path in the build tree, wherever the makefile puts it; never libtool's wrapper script.
program() {
	local d
	for d in "$build" "$build"/{daemon,client/ctl,client,tests/conformance,tests/system}; do
		[ ! -f "$d/.libs/$1" ] || { echo "$d/.libs/$1"; return; }
		[ ! -f "$d/$1" ] || { echo "$d/$1"; return; }
	done
	echo "${0##*/}: there is no $1 in $build: make it first" >&2
	return 1
}

# stage NAME...: copies programs and the client library where every user can run them, to $work/bin.
stage() {
	local name path lib
	mkdir -p "$work/bin" "$work/lib"
	for name; do
		path=$(program "$name") || return
		cp "$path" "$work/bin/"
	done
	for lib in "$build"/.libs/libvfio-broker.so.? "$build"/client/.libs/libvfio-broker.so.?; do
		[ ! -e "$lib" ] || cp -L "$lib" "$work/lib/"
	done
	chmod -R a+rX "$work/bin" "$work/lib"
}

# grant UID DEVICES-WITH-SPACES [MEMORY] [ADMIN]: one grant of a policy.
grant() {
	local d list=
	for d in $2; do list+="${list:+,}\"$d\""; done
	printf '{"uid":%s,"devices":[%s],"memory_max":%s,"sessions":64,"mappings":65536,"admin":%s}' \
		"$1" "$list" "${3:-1073741824}" "${4:-false}"
}

# policy GRANT...: a policy file; prints its path.
policy() {
	local IFS=,
	printf '{"version":1,"grants":[%s]}\n' "$*" >"$work/policy.json"
	echo "$work/policy.json"
}

# broker_start POLICY OPTION...: starts vfio-brokerd and waits until it listens. Its log is $work/broker.log. Brokers that run at
# the same time as root must not share uids of sessions: VB_SESSION_UIDS=FIRST-COUNT gives this one others.
broker_start() {
	local policy=$1 i program
	shift
	program=$(program vfio-brokerd) || return
	[ -z "${VB_SESSION_UIDS:-}" ] || set -- --session-uids="$VB_SESSION_UIDS" "$@"
	mkdir -p "$work/run"
	chmod 755 "$work/run"
	"$program" --socket="$broker_socket" --runtime-dir="$work/run" --policy="$policy" "$@" >>"$work/broker.log" 2>&1 &
	broker_pid=$!
	for ((i = 0; i < 300; i++)); do
		! listening || return 0
		kill -0 "$broker_pid" 2>/dev/null || break
		sleep 0.05
	done
	echo "${0##*/}: vfio-brokerd does not listen on $broker_socket" >&2
	sed 's/^/vfio-brokerd: /' "$work/broker.log" >&2
	return 1
}

# listening: does somebody accept connections on our socket?
listening() { awk -v s="$broker_socket" '$4 == "00010000" && $8 == s { found = 1 } END { exit !found }' /proc/net/unix; }

# broker_stop: ends the daemon as systemd would. Its exit status, 137 if it had to be killed.
broker_stop() {
	local i status=0
	[ -n "$broker_pid" ] || return 0
	kill -TERM "$broker_pid" 2>/dev/null || :
	for ((i = 0; i < 100; i++)); do
		kill -0 "$broker_pid" 2>/dev/null || break
		sleep 0.1
	done
	[ "$i" -lt 100 ] || kill -KILL "$broker_pid"
	wait "$broker_pid" 2>/dev/null || status=$?
	broker_pid=
	return $status
}

# broker_kill: the daemon has no time to do anything.
broker_kill() {
	kill -KILL "$broker_pid"
	wait "$broker_pid" 2>/dev/null || :
	broker_pid=
}

# as_client COMMAND...: as an ordinary user without any capability, and without a way to get one.
as_client() {
	local drop=()
	[ "$(id -u)" != 0 ] || drop=(setpriv --reuid="$client_uid" --regid="$client_uid" --clear-groups --inh-caps=-all
		--ambient-caps=-all --bounding-set=-all --no-new-privs)
	"${drop[@]}" env LD_LIBRARY_PATH="$work/lib" "$@"
}

# ctl ARGUMENT...: vfio-brokerctl as ourselves.
ctl() { LD_LIBRARY_PATH="$work/lib" "$work/bin/vfio-brokerctl" "$@"; }

# bind_vfio ADDRESS: gives a PCI device to vfio-pci.
bind_vfio() {
	local dev=/sys/bus/pci/devices/$1
	[ ! -e "$dev/driver" ] || echo "$1" >"$dev/driver/unbind"
	echo vfio-pci >"$dev/driver_override"
	echo "$1" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "$dev/driver")")" = vfio-pci ]
}

# pinned_pages: pages that the kernel holds pinned for DMA, on the whole machine. Per-CPU counters are folded in first.
pinned_pages() {
	cat /proc/sys/vm/stat_refresh 2>/dev/null || :
	awk '$1 == "nr_foll_pin_acquired" { n += $2 } $1 == "nr_foll_pin_released" { n -= $2 } END { print n + 0 }' /proc/vmstat
}

# sessions: pids of the daemon's session processes.
sessions() { pgrep -P "$broker_pid" || :; }

# open_fds PID: how many fds it has.
open_fds() { find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l; }

# wait_for SECONDS COMMAND...: until COMMAND succeeds.
wait_for() {
	local end=$((SECONDS + $1 + 1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}
