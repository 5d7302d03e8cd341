#!/bin/sh
# Builds and runs docker/Dockerfile without a container engine: each stage is a bare Debian root in a
# temporary folder, COPY is cp and RUN is chroot.  Then the image's command serves a tiny model as the
# image's user, `duetto healthcheck` asks it, and SIGTERM has to end it.
#   docker/check.sh          as root, with debootstrap; otherwise it says "skipped" and is content
# What it checks is the last commit, not the working tree.
set -eu
cd "$(dirname "$0")/.."
MODEL=tests/fixtures/tiny-llama.gguf
PORT=$((20000 + $$ % 10000))

skip() {
    echo "skipped: $1"
    exit 0
}
fail() {
    echo "docker/check.sh: $1" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || skip "it needs root"
command -v debootstrap >/dev/null || skip "it needs debootstrap"
command -v git >/dev/null || skip "it needs git"

work=$(mktemp -d)
server=""
# shellcheck disable=SC2317  # called by the trap
cleanup() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

mkdir "$work/context"
git archive HEAD | tar -x -C "$work/context"

# The base image; the mirror and its settings are this machine's.
fresh_root() {
    if [ ! -d "$work/base" ]; then
        echo "  ROOT   debian 12"
        debootstrap --variant=minbase bookworm "$work/base" >"$work/log" 2>&1 ||
            { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
        rm -rf "$work/base/etc/apt/sources.list"
        for f in sources.list sources.list.d apt.conf.d keyrings; do
            [ ! -e "/etc/apt/$f" ] || cp -R "/etc/apt/$f" "$work/base/etc/apt/"
        done
    fi
    cp -a "$work/base" "$1"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
}

# enter ROOT USER COMMAND: this shell becomes the command, which sees the stage's ENV and nothing of
# this machine's.
enter() {
    # shellcheck disable=SC2086  # $env is a list of words
    exec chroot --userspec="$2" "$1" /usr/bin/env -i \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ $env \
        /bin/sh -c "cd $dir && $3"
}
in_root() {
    (enter "$@")
}

copy() {
    from=$work/context
    case $1 in --from=*) from=$work/stage-${1#--from=}; shift ;; esac
    while [ $# -gt 1 ]; do
        sources="${sources:-} $1"
        shift
    done
    case $1 in /*) to=$root$1 ;; *) to=$root$dir/$1 ;; esac
    case $1 in */) mkdir -p "$to" ;; esac
    for s in $sources; do
        [ -e "$from/$s" ] || fail "COPY: no $s"
        if [ -d "$from/$s" ]; then cp -a "$from/$s/." "$to"; else cp -a "$from/$s" "$to"; fi
    done
    sources=""
}

# The list ["a", "b c"] as shell words.
words() {
    echo "$1" | sed "s/^\[//; s/\]\$//; s/\", *\"/' '/g; s/\"/'/g"
}

root="" dir=/ env="" user=0:0 entrypoint="" command="" health="" stop=TERM
sed -e ':a' -e '/\\$/N; s/\\\n */ /; ta' -e '/^#/d' -e '/^ *$/d' docker/Dockerfile >"$work/lines"
while read -r instruction rest <&3; do
    case $instruction in
    FROM)
        root=$work/stage-${rest##* }
        dir=/ env="" user=0:0
        fresh_root "$root"
        ;;
    WORKDIR)
        dir=$rest
        mkdir -p "$root$dir"
        ;;
    COPY)
        # shellcheck disable=SC2086  # names without spaces
        copy $rest
        ;;
    RUN)
        echo "  RUN    $rest"
        in_root "$root" "$user" "$rest" >"$work/log" 2>&1 ||
            { tail -n 40 "$work/log" >&2; fail "RUN failed"; }
        ;;
    ENV) env="$env $rest" ;;
    USER) user=$rest ;;
    ENTRYPOINT) entrypoint=$(words "$rest") ;;
    CMD) command=$(words "$rest") ;;
    HEALTHCHECK) health=$(words "[${rest#*CMD \[}") ;;
    STOPSIGNAL) stop=${rest#SIG} ;;
    ARG | LABEL | EXPOSE) ;;
    *) fail "cannot do $instruction" ;;
    esac
done 3<"$work/lines"

echo "  IMAGE  $(du -sh "$root" | cut -f 1), user $user"
version=$(in_root "$root" "$user" "$entrypoint --version")
[ "$version" = "duetto $(cat "$work/context/VERSION")" ] || fail "--version says $version"
echo "  OK     $version"

env="$env DUETTO_PORT=$PORT"
if in_root "$root" "$user" "$health" >"$work/log" 2>&1; then
    fail "$health: content without a server"
fi
mkdir -p "$root/models"
cp "$work/context/$MODEL" "$root/models/"
chmod -R a+rX "$root/models"
enter "$root" "$user" "exec $entrypoint $command" >"$work/log" 2>&1 &
server=$!
tries=0
until in_root "$root" "$user" "$health" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries -gt 60 ] || ! kill -0 "$server" 2>/dev/null; then
        cat "$work/log" >&2
        fail "the server does not become healthy"
    fi
    sleep 0.5
done
echo "  OK     $entrypoint $command: healthy"
kill -"$stop" "$server"
wait "$server" || fail "SIG$stop: exit code $?"
server=""
echo "  OK     SIG$stop ends it"
