#!/bin/sh
# lock.sh UV DIRECTORY: writes server.txt and dev.txt, which name every Python package with its version and hashes, for all
# platforms. Made from pyproject.toml alone: the same input gives the same files as long as the index holds nothing newer.
set -eu
uv=$1
directory=$2
build=$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml) # what builds exitscope itself

lock() {
    output=$1
    shift
    echo "$build" | "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links --upgrade "$@" -o "$directory/$output" pyproject.toml -
}
lock server.txt --extra server
lock dev.txt --extra server --extra dev --constraint "$directory/server.txt"
