#!/bin/bash
# The demonstration itself: an unprivileged program does DMA through the broker, step by step, each step checked. Runs as
# root in the VM of tests/vm/run, or with --emulated anywhere, as anybody. Started by tests/demo.
#
# usage: tests/system/demo-guest.sh [--build=DIR] [--emulated]
#   --build     the build tree (build/demo)
#   --emulated  on the emulated backend: no kernel object, no privilege; some steps are left out
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=$top/build/demo emulated=''
for arg; do
	case $arg in
	--help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
	--build=*) build=$(cd "${arg#*=}" && pwd) ;;
	--emulated) emulated=yes ;;
	*) echo "demo-guest.sh: no such option: $arg (see --help)" >&2; exit 2 ;;
	esac
done
# shellcheck source=tests/lib/broker.sh
. "$top/tests/lib/broker.sh"

# ---- how steps are shown -------------------------------------------------------------------------------------------
number=0
step() { number=$((number + 1)); printf '\n%2d. %s\n' "$number" "$*"; }
show() { printf '    %s\n' "$*"; }
show_output() { sed 's/^/    | /'; }
fail() {
	printf '\nFAILED in step %d: expected %s\n' "$number" "$1"
	[ -z "${2-}" ] || printf '    but: %s\n' "$2"
	[ ! -s "$work/broker.log" ] || tail -n 20 "$work/broker.log" | sed 's/^/    vfio-brokerd: /'
	exit 1
}
left_out() { show "left out: $1"; }

# ---- the client ----------------------------------------------------------------------------------------------------
# start_client NAME: the program as an ordinary user; $client is its pid. Our fd 7 is its stdin, 8 its stdout.
start_client() {
	local limit=
	mkfifo "$work/$1.in" "$work/$1.out"
	[ -z "$memlock" ] || limit="prlimit --memlock=$memlock:$memlock"
	# shellcheck disable=SC2086
	(cd / && exec $limit "${as_client[@]}" "$work/bin/demo-client") \
		<"$work/$1.in" >"$work/$1.out" 2>>"$work/client.log" &
	children+=($!)
	exec 7>"$work/$1.in" 8<"$work/$1.out"
	read -r -t 30 -u 8 answer || fail "the client to start" "$(cat "$work/client.log")"
	client=${answer#ok }
}
# ask REQUEST: sends one line to the client; its answer is in $answer.
ask() {
	echo "$*" >&7
	read -r -t 120 -u 8 answer || fail "an answer of the client to \"$*\"" "$(tail -n 3 "$work/client.log")"
}
# must REQUEST: it succeeds. The rest of the answer is in $answer.
must() {
	ask "$@"
	case $answer in
	ok*) answer=${answer#ok} answer=${answer# } ;;
	*) fail "the client's \"$*\" to succeed" "$answer" ;;
	esac
}
# refused CODE REQUEST: it is refused with this code.
refused() {
	local code=$1
	shift
	ask "$@"
	case $answer in
	"refused $code "*) answer=${answer#refused } ;;
	*) fail "\"$*\" to be refused with $code" "$answer" ;;
	esac
}
status_of() { awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/status"; }

pins_are_back() { [ "$(pinned_pages)" -le $((pins + 4)) ]; } # the counters lag by a page or so
session_line() { ctl list sessions --json=short | tr -d ' \n' | grep -oE "\"session\":$1,.*" | sed 's/}.*//'; }
# shellcheck disable=SC2317 # called through wait_for
same_session() { [ "$(session_line "$session" 2>/dev/null)" = "$listed" ]; }

broker_setup
stage demo-client
root=''
[ "$(id -u)" != 0 ] || root=yes

if [ -n "$emulated" ]; then
	what='the emulated backend: a page table in memory and a software DMA engine'
	device=emulated:0 other=emulated:1
	options=(--backend=emulated --emulated-devices=2)
	[ -n "$root" ] || options+=(--session-uids=none)
else
	what="Linux $(uname -r) with an IOMMU ($(cat /sys/class/iommu/*/intel-iommu/version 2>/dev/null | head -n 1 | sed 's/^/VT-d /'))"
	device=0000:00:04.0 other=0000:00:05.0
	options=(--backend=iommufd)
fi
# What the client may lock: 128 MiB where we may say so, else what we may ourselves. It maps all of the lease that a session
# begins with (VB_LEASE_SLACK); more comes by itself, for while the daemon is away.
size=64 memlock=$((128 << 20))
if [ -z "$root" ] || ! prlimit --memlock=$memlock:$memlock true 2>/dev/null; then
	memlock=
	hard=$(ulimit -H -l)
	ulimit -S -l "$hard"
	[ "$hard" = unlimited ] || [ "$hard" -ge $((80 << 10)) ] || size=$((hard >> 11))
fi

echo "vfio-broker: an unprivileged program's device does DMA, on $what"

step "The administrator prepares the host"
if [ -z "$emulated" ]; then
	for d in "$device" "$other"; do
		ctl bind "$d" >"$work/out" 2>&1 || fail "vfio-brokerctl to bind $d to vfio-pci" "$(cat "$work/out")"
		[ "$(basename "$(readlink "/sys/bus/pci/devices/$d/driver")")" = vfio-pci ] || fail "$d to be bound to vfio-pci"
		show "vfio-brokerctl bind $d: bound to vfio-pci"
	done
	pins=$(pinned_pages)
	show "the kernel has $pins pages pinned for DMA (/proc/vmstat, nr_foll_pin_acquired - nr_foll_pin_released)"
else
	left_out "binding devices to vfio-pci: emulated devices have no driver"
fi
grants=("$(grant "$client_uid" "$device" $((1 << 30)) "$([ -n "$root" ] && echo false || echo true)")")
policy=$(policy "${grants[@]}")
show "policy: $(cat "$policy")"
broker_start "$policy" "${options[@]}" || fail "vfio-brokerd to start"
show "vfio-brokerd runs as pid $broker_pid"

step "The client is an ordinary process"
as_client=(env "LD_LIBRARY_PATH=$work/lib")
[ -z "$root" ] || as_client=(setpriv "--reuid=$client_uid" "--regid=$client_uid" --clear-groups --inh-caps=-all
	--ambient-caps=-all --bounding-set=-all --no-new-privs "${as_client[@]}")
start_client first
uid=$(status_of "$client" Uid)
show "pid $client, uid $uid, capabilities: effective $(status_of "$client" CapEff), permitted $(status_of "$client" CapPrm), bounding $(status_of "$client" CapBnd)"
show "limits: $(awk '/^Max locked memory/ { print "locked memory " $4 " " $6 }' "/proc/$client/limits"), $(awk '/^Max open files/ { print "open files " $4 }' "/proc/$client/limits")"
if [ "$uid" != "$client_uid" ] || [ "$uid" = 0 ]; then fail "a client that is not root" "uid $uid"; fi
for set in CapEff CapPrm; do
	[ "$(status_of "$client" $set)" = 0000000000000000 ] || fail "a client without capabilities" "$set $(status_of "$client" $set)"
done

step "What it asks the kernel for itself is refused"
if [ -z "$emulated" ]; then
	group=$(basename "$(readlink "/sys/bus/pci/devices/$device/iommu_group")")
	cdev=$(basename "/sys/bus/pci/devices/$device/vfio-dev"/vfio*)
	for node in /dev/iommu "/dev/vfio/$group" "/dev/vfio/devices/$cdev"; do
		[ -c "$node" ] || fail "$node to be there"
		refused EACCES open "$node"
		show "open $node: $answer"
	done
else
	left_out "the nodes of VFIO and iommufd: this backend uses none"
fi

step "It connects to the broker, and claims a device that policy does not grant"
must connect
read -r session backend limit <<<"$answer"
show "session $session, backend $backend, limit $limit bytes"
refused VFB_DENIED claim "$other"
show "claim $other: $answer"

step "It claims the device that policy grants"
must claim "$device"
show "claim and bind $device: done, in $answer s"
must attach
show "attached to a space of its own"

step "It maps $size MiB of memfd for the device"
[ "$size" = 64 ] || show "not 64 MiB: this user's limit of locked memory is $hard KiB"
must map "$size"
show "mapped: IOVA and bytes: $answer"
if [ -z "$emulated" ]; then
	now=$(pinned_pages)
	show "the kernel has $((now - pins)) pages more pinned than before"
	[ $((now - pins)) -ge $((size * 256 - 4)) ] || fail "$((size * 256)) pages to be pinned" "$((now - pins)) are"
else
	left_out "the kernel's count of pinned pages: this backend pins none"
fi

step "The device reads and writes that memory"
must round-trip 4
show "memory -> device -> memory: $answer bytes in 4 transfers, compared equal"

step "DMA to an IOVA that is not mapped"
must stray
show "to $answer: did not get through, and no byte of the client's memory changed"

step "vfio-brokerctl list mappings"
ctl list mappings >"$work/out" 2>&1 || fail "vfio-brokerctl to list" "$(cat "$work/out")"
show_output <"$work/out"
grep -q 0x10000000 "$work/out" || fail "the mapping at 0x10000000 to be listed"
listed=$(session_line "$session") || fail "session $session to be listed"
ctl list sessions >"$work/out"
show "vfio-brokerctl list sessions"
show_output <"$work/out"

step "The daemon is killed (SIGKILL); DMA and mapping go on"
old=$broker_pid
broker_kill
[ ! -e "/proc/$old" ] || fail "pid $old to be gone"
! ctl status >"$work/out" 2>&1 || fail "no daemon to answer"
show "killed pid $old; vfio-brokerctl status: $(head -n 1 "$work/out")"
must round-trip 2
show "memory -> device -> memory: $answer bytes, compared equal"
must map 1
show "one more memfd mapped: IOVA and bytes: $answer"
must round-trip 2
show "memory -> device -> memory through it: $answer bytes, compared equal"

step "The daemon is started again; the session is listed as before"
broker_start "$policy" "${options[@]}" 7>&- 8>&- || fail "vfio-brokerd to start again"
wait_for 10 same_session || fail "session $session as before: $listed" "$(session_line "$session" || :)"
ctl list sessions >"$work/out"
show_output <"$work/out"
ctl list mappings >"$work/out"
show_output <"$work/out"
[ "$(grep -c ' 0x1' "$work/out")" = 2 ] || fail "both mappings to be listed"
must round-trip 2
show "memory -> device -> memory: $answer bytes, compared equal"

step "The client is killed (SIGKILL); everything is taken back"
kill -KILL "$client"
{ wait "$client" || :; } 2>/dev/null
killed=$(date +%s.%N)
if [ -z "$emulated" ]; then
	wait_for 10 pins_are_back || fail "$pins pinned pages, as before" "$(pinned_pages)"
	show "the kernel has $(pinned_pages) pages pinned for DMA; before the client came: $pins"
else
	left_out "the kernel's count of pinned pages"
fi

step "The device is claimed again, by another client"
exec 7>&- 8<&-
start_client second
must connect
must claim "$device"
show "claim and bind $device: done in $answer s, $(awk -v a="$killed" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }') s after the first client was killed"
must attach
must map 1
must round-trip 1
show "memory -> device -> memory: $answer bytes, compared equal"
exec 7>&-
wait_for 10 test ! -e "/proc/$client" || fail "the client to end"
broker_stop || fail "vfio-brokerd to end with status 0" "$?"

echo
if [ -n "$emulated" ]; then
	echo "DMA through the broker (emulated): OK"
else
	echo "DMA through the broker: OK"
fi
