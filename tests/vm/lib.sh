# shellcheck shell=bash
# Shared functions of the VM test bed: cache directory, packages, packages from other suites.
# Use: . "$(dirname "$0")/lib.sh"

cache=${VFIO_BROKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vfio-broker}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root COMMAND...: run it as root, through sudo if we are not.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need_packages PACKAGE...: install what is missing of these Debian packages, and say so.
need_packages() {
	local p state missing=()
	for p; do
		state=$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) || state=
		[ "$state" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		say "Debian packages are missing, and there is no sudo. Run as root:"
		printf '  apt-get update && apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
		exit 1
	fi
	say "installing Debian packages: ${missing[*]}"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
		-o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >&2 && return
	as_root apt-get -q update >&2 &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
			-o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >&2
}

# What follows is for this machine's architecture, or for DEB_ARCH.
suite_dir() { echo "$cache/apt/$1-${DEB_ARCH:-$(dpkg --print-architecture)}"; }

# suite_apt SUITE PROGRAM ARGUMENT...: apt-get or apt-cache with SUITE as its only source. Sources, lists and archives
# are in the cache; the mirror, the proxy settings and the keyring are this machine's.
suite_apt() {
	local program=$2 dir arch
	dir=$(suite_dir "$1")
	arch=${dir##*-}
	shift 2
	"$program" -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o "Dir::State=$dir/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$dir/cache" \
		-o "APT::Architecture=$arch" -o "APT::Architectures=$arch" \
		-o APT::Sandbox::User= -o Acquire::Languages=none -o Debug::NoLocking=1 -o APT::Get::List-Cleanup=0 "$@"
}

# suite_update SUITE: fetch SUITE's package lists, at most once an hour.
suite_update() {
	local suite=$1 dir uri
	dir=$(suite_dir "$suite")
	mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
	[ -z "$(find "$dir/updated" -mmin -60 2>/dev/null)" ] || return 0
	# shellcheck disable=SC2016 # for apt
	uri=$(apt-get indextargets --format '$(REPO_URI) $(CREATED_BY) $(COMPONENT)' 2>/dev/null |
		awk '$2 == "Packages" && $3 == "main" && $1 ~ "/debian/?$" { print $1; exit }')
	[ -n "$uri" ] || die "no Debian archive among this machine's apt sources"
	printf 'deb [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$uri" "$suite" \
		>"$dir/sources.list"
	say "reading the package lists of $suite"
	suite_apt "$suite" apt-get -qq -o APT::Update::Error-Mode=any update >&2 || die "cannot read the package lists of $suite"
	touch "$dir/updated"
}

# suite_newest SUITE REGEX: the package of SUITE with the highest version in its name among those that REGEX matches.
suite_newest() {
	suite_apt "$1" apt-cache pkgnames | grep -E "^($2)\$" | sort -V | tail -n 1
}

# suite_version SUITE PACKAGE: the version of PACKAGE that SUITE offers.
suite_version() {
	suite_apt "$1" apt-cache --no-all-versions show "$2" | sed -n 's/^Version: //p' | head -n 1
}

# fetch_deb SUITE PACKAGE DIR: download PACKAGE from SUITE and unpack it into DIR. Nothing is installed.
fetch_deb() {
	local suite=$1 package=$2 dir=$3 tmp
	suite_update "$suite"
	mkdir -p "$dir"
	tmp=$(mktemp -d "$(suite_dir "$suite")/deb.XXXXXX")
	say "downloading $package from $suite"
	if ! (cd "$tmp" && suite_apt "$suite" apt-get -q download "$package" >&2) || ! dpkg-deb -x "$tmp"/*.deb "$dir"; then
		rm -rf "$tmp"
		die "cannot fetch $package from $suite"
	fi
	rm -rf "$tmp"
}
