#!/usr/bin/env bash
# Open the studio, or run one of its commands: ./launch.sh [--port N | generate --prompt TEXT | doctor | --help ...]
# The first time, and whenever requirements.txt has changed, it sets the studio up before.
set -euo pipefail

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "The studio needs Python 3.11 or newer and finds none; install it (Debian, Ubuntu: apt install python3 python3-venv; on Ubuntu 22.04 python3.11 python3.11-venv)." >&2
    return 1
}

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # a link from ~/bin or a desktop
    target=$(readlink "$script")
    case $target in
        /*) script=$target ;;
        *) script=$(dirname "$script")/$target ;;
    esac
done
studio=$(CDPATH='' cd -P -- "$(dirname -- "$script")" && pwd)
python=$studio/.venv/bin/python

# setup.py leaves a copy of the requirements that it installed.
if ! "$python" -c '' 2>/dev/null || ! cmp -s "$studio/requirements.txt" "$studio/.venv/studio/requirements.txt"; then
    setup_python=$(find_python)
    "$setup_python" "$studio/setup.py" --quiet >&2
fi

# The caller's folder stays the working directory, for relative paths to pictures; a folder named backend in it must not
# be taken for ours (Python 3.11 and newer look for modules only where they are told).
export PYTHONPATH=$studio PYTHONSAFEPATH=1 STUDIO_COMMAND=$0
exec "$python" -m backend.cli "$@"
