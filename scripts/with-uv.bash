# Sourced by scripts/setup and scripts/setup-vllm: uv, which installs in seconds what takes pip minutes.
# shellcheck shell=bash

# uv does not read pip's settings, so hand them over wherever uv has none of its own.
pip_setting() {
    "$python" -m pip config get ":env:.$1" 2>/dev/null || "$python" -m pip config get "global.$1" 2>/dev/null || true
}
hand_over() { # uv's variable, pip's setting, separator in uv's variable
    local value
    [ -z "${!1:-}" ] || return 0
    value=$(pip_setting "$2" | xargs | tr ' ' "$3")
    [ -z "$value" ] || export "$1=$value"
}
hand_over UV_FIND_LINKS find-links ,
hand_over UV_DEFAULT_INDEX index-url ' '
hand_over UV_INDEX extra-index-url ' '
hand_over SSL_CERT_FILE cert ' '

locked_uv() { # print uv's own lines of the one lock that has it
    awk '/^[^ #]/ { keep = /^uv==/ } keep' scripts/vllm-cpu.lock
}

# uv writes no byte-code, and where PYTHONDONTWRITEBYTECODE is set no later start would: every process would
# compile everything again. A few packages ship templates that are not Python; that they do not compile is no fault.
compile_all() { # the environment
    env -u PYTHONDONTWRITEBYTECODE nice -n 10 "$1/bin/python" -m compileall -q -j 0 "$1/lib" > "$1/compileall.log" || true
}
