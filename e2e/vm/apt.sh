# Sourced: packages of a Debian suite, whatever this machine is configured with, and without changing its configuration.
#
#   from_suite SUITE FOLDER    fetches the suite's package lists into FOLDER; `private` then holds the options that make apt-get
#                              and apt-cache use them. It needs the mirror that apt is configured with.
private=(-o APT::Sandbox::User=root) # its own user may not write into our folders
from_suite() {
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | awk '!/security/ && !n++')
  [ -n "$mirror" ] || { echo "apt has no lists of a Debian mirror: run apt-get update" >&2; return 1; }
  mkdir -p "$2/lists/partial" "$2/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$2/sources.list"
  private+=(-o "Dir::State::Lists=$2/lists" -o "Dir::Cache=$2/cache"
    -o "Dir::Etc::SourceList=$2/sources.list" -o Dir::Etc::SourceParts=/dev/null)
  apt-get "${private[@]}" -qq update >&2
}

download() { # puts packages into the folder that it is called in
  echo "fetching $* .." >&2
  apt-get "${private[@]}" -qq download "$@" >&2
}
