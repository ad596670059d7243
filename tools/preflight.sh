#!/bin/sh
# Usage: tools/preflight.sh [PYTHON]
# Prints the Python that .venv can be made with, or one line that says what is missing (exit 1).
# Without PYTHON it looks for python3, then python3.13, python3.12 and python3.11.

asked=${1:-python3}
case $asked in
  "~/"*) asked=$HOME/${asked#"~/"} ;;
esac
if [ "$asked" = python3 ]; then
  set -- python3 python3.13 python3.12 python3.11
else
  set -- "$asked"
fi

# Runs on every Python since 2.7.
probe='
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    print("version " + version)
else:
    try:
        import ensurepip, venv
        print("ok " + version)
    except ImportError:
        print("venv " + version)
'

old='' without_venv='' package=python3-venv
for python in "$@"; do
  found=$("$python" -c "$probe" 2>/dev/null) || continue
  case $found in
    "ok "*) echo "$python"; exit 0 ;;
    "venv "*)
      if [ -z "$without_venv" ]; then
        without_venv="Python ${found#venv } ($python)"
        [ "$python" = python3 ] || package="python${found#venv }-venv"
      fi ;;
    "version "*) [ -n "$old" ] || old=${found#version } ;;
  esac
done

if [ -n "$without_venv" ]; then
  echo "ritz: $without_venv has no venv/ensurepip module; Debian/Ubuntu: apt install $package" >&2
elif [ -n "$old" ]; then
  echo "ritz: needs Python 3.11 to 3.13, but $asked is $old; name another with: make PYTHON=/path/to/python3.12" >&2
else
  echo "ritz: needs Python 3.11 to 3.13, but $asked does not run; install one, or name it with: make PYTHON=/path/to/python3.12" >&2
fi
exit 1
