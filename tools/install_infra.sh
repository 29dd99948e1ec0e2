#!/usr/bin/env bash
# Installs the programs that tests marked `infra` use, from Debian's or Ubuntu's own packages.
#
# Needs root. A second run does nothing when all are there. Nothing is configured, enabled or started.
set -euo pipefail

# program -> package that brings it
programs=(
  curl:curl            # tests/docs: the request of the READMEs
  taskset:util-linux   # tests/infra: an affinity of one CPU
  unshare:util-linux   # tests/infra: a namespace of control groups, as a container has
)

# tests/page and tests/bench/report open their pages in a browser, and look at Chinese in it.
have_browser() { command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null; }
have_chinese() { [ -n "$(fc-list :lang=zh family 2> /dev/null || true)" ]; }

missing=()
for each in "${programs[@]}"; do
  command -v "${each%%:*}" > /dev/null || missing+=("${each##*:}")
done
have_browser || missing+=(chromium)
have_chinese || missing+=(fontconfig fonts-noto-cjk)
if [ "${#missing[@]}" -eq 0 ]; then
  echo "All programs of the infrastructure tests are here."
  exit 0
fi
mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! command -v apt-get > /dev/null; then
  echo "install_infra: there is no apt-get here. Install these packages by your system's own means: ${packages[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "install_infra: installing ${packages[*]} needs root. Run: sudo make infra" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt-get install --yes --quiet=2 --no-install-recommends "${packages[@]}" > "$log" 2>&1; }
echo "Installing ${packages[*]} ..."
# The lists of packages may be missing or old; they are fetched only when that turns out.
if ! install; then
  apt-get update --quiet=2 > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
  install || { cat "$log" >&2; exit 1; }
fi

for each in "${programs[@]}"; do
  command -v "${each%%:*}" > /dev/null || { echo "install_infra: ${each%%:*} is still missing after installing ${each##*:}." >&2; exit 1; }
done
have_browser || { echo "install_infra: there is still no browser after installing chromium." >&2; exit 1; }
have_chinese || { echo "install_infra: there are still no Chinese fonts after installing fonts-noto-cjk." >&2; exit 1; }
echo "Done."
