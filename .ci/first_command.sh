#!/usr/bin/env bash
# Runs the README's first command as it stands, in a fresh copy of the committed files: it has to leave nothing that git would list.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git clone -q --no-hardlinks . "$scratch/clone"
cd "$scratch/clone"
command=$(python3 -c 'import re; print(re.findall(r"```bash\n(.*?)```", open("README.md").read(), re.DOTALL)[0])')
bash -euc "$command"
left=$(git status --porcelain)
if [ -n "$left" ]; then
  printf 'the first command leaves behind:\n%s\n' "$left"
  exit 1
fi
echo "the README's first command leaves nothing behind"
