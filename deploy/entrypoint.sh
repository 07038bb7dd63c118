#!/bin/sh
# Runs the command as whoever owns /runs, so that what it leaves on the host belongs to the host's user;
# as the user warren where that would be root.
set -e
[ "$(id -u)" = 0 ] || exec "$@"
owner=$(stat -c %u /runs)
group=$(stat -c %g /runs)
if [ "$owner" = 0 ]; then
    chown warren:warren /runs
    owner=$(id -u warren)
    group=$(id -g warren)
fi
exec setpriv --reuid "$owner" --regid "$group" --clear-groups env HOME=/tmp "$@"
