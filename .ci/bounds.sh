#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml declares on Python 3.10, and the newest on Python 3.13, each into an environment of its
# own, and runs those tests that need no TensorFlow and depend on other packages, without the slowest. A Python that is not on this machine is an error.
#
# usage: bounds.sh [lowest] [newest]      (both where none is named)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
tests="tests/formats tests/sources tests/targets/test_targets.py tests/batchnorm/test_layer.py tests/batchnorm/test_bundle.py
  tests/keras/test_config.py tests/keras/test_dialects.py tests/files/test_place.py tests/files/test_remote.py tests/pipeline/test_read_write.py
  tests/commands/test_export.py tests/commands/test_completion.py tests/test_errors.py"
slow="share_too_much or extended_validator or few_requests or many_layers_that or circles or very_many or damage_is_an_error"

python3 -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install -q uv
uv=$scratch/tools/bin/uv

requirements() {  # of the tests and the extras, without what is large and what only live comparisons need
  "$scratch/tools/bin/python" - "$here/pyproject.toml" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read().split("[project.optional-dependencies]")[1].split("\n[")[0]
large = ("bn-export", "moto", "tensorflow", "tf_keras", "torch", "openvino", "opencv", "onnxruntime", "selenium", "mkdocs", "mypy", "ruff", "check-jsonschema")
print("\n".join(found for found in re.findall(r'"([^"]+)"', text) if not found.startswith(large)))
PYTHON
}

interpreter() {  # the path of Python $1: on PATH, below pyenv's versions, or one that uv knows
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python "$("$uv" python find --no-python-downloads "$1" 2>/dev/null || true)"; do
    if [ -x "$found" ] && "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      "$found" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "Python $1 is not on this machine, so these bounds were not checked: install it, e.g. with: uv python install $1" >&2
  return 1
}

check() {  # name, version of Python, resolution
  local python began=$SECONDS
  python=$(interpreter "$2")
  "$uv" venv -q --python "$python" "$scratch/$1"
  requirements >"$scratch/$1.txt"
  "$uv" pip install -q --python "$scratch/$1/bin/python" --resolution "$3" -r "$scratch/$1.txt" -e "$here"
  "$uv" pip list -q --python "$scratch/$1/bin/python" | awk 'NR > 2 {printf "%s %s, ", $1, $2} END {print ""}'
  # shellcheck disable=SC2086
  (cd "$here" && "$scratch/$1/bin/python" -m pytest -q -n auto -p no:cacheprovider -m "not live" -k "not ($slow)" $tests)
  echo "$1 versions on Python $2: tests pass ($((SECONDS - began)) s)"
}

[ $# -gt 0 ] || set -- lowest newest
for name in "$@"; do
  case $name in
    lowest) check lowest 3.10 lowest-direct ;;
    newest) check newest 3.13 highest ;;
    *) echo "expected lowest or newest, got $name" >&2; exit 2 ;;
  esac
done
