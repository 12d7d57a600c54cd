[[ -v EXECGATE_SESSION ]] || { IFS= read -rd '' -u 3 EXECGATE_CODE && { echo "$0: the code holds a NUL byte, which bash cannot read" >&2; exit 2; }; exec 3<&-; cd /workspace && unset OLDPWD; eval "unset EXECGATE_CODE;$EXECGATE_CODE"; exit; }; mapfile -s 1 EXECGATE_CODE <main.sh; printf -v EXECGATE_REST %s "${EXECGATE_CODE[@]}"; eval "$EXECGATE_REST"; execgate_begin; eval "$EXECGATE_LOOP"; exit 0
# Runs bash programs for Execgate. All that runs a program is in the first line, so that its errors
# show its own lines. A session also evaluates what follows.
#
# In a session jobs come one after another, as records that NUL ends: NAME=value of each variable,
# an empty one, the code. The driver writes P to the descriptor that EXECGATE_READY names when it
# waits for the first, T when it has one, and D and the exit status, one byte, when it is done.

# A program that uses break, or is interrupted, breaks this loop too; then it begins anew.
EXECGATE_LOOP='while execgate_take; do eval "$EXECGATE_CODE" 3<&- 4>&-; { execgate_done $?; } 2>/dev/null; done; { execgate_done $?; } 2>/dev/null && eval "$EXECGATE_LOOP"'

execgate_begin() {
    if [[ ! -v EXECGATE_READY ]]; then
        exec 4>/dev/null
    elif [[ $EXECGATE_READY != 4 ]]; then
        eval "exec 4>&$EXECGATE_READY $EXECGATE_READY>&-"
    fi
    unset EXECGATE_READY EXECGATE_SESSION EXECGATE_REST EXECGATE_CODE
    declare -gA EXECGATE_BEFORE=()
    EXECGATE_RUNS=
    execgate_trap
    cd /workspace && unset OLDPWD
    printf P >&4
}

# An interrupt ends the program, wherever it is: it breaks the loops it is in, and the trap of DEBUG
# skips each command that is left, out of functions too, up to the driver's own.
execgate_trap() {
    trap 'if [[ $EXECGATE_RUNS ]]; then EXECGATE_RUNS=interrupted; shopt -s extdebug; trap "if [[ \$BASH_COMMAND == execgate_done* ]]; then trap - DEBUG; else ! break 999 2>/dev/null; execgate_skip; fi" DEBUG; fi' INT
}

# Has extdebug skip the next command, and return where that is in a function.
execgate_skip() { return 2; }

# Reads a job; fails where there is none.
execgate_take() {
    local record name
    while IFS= read -rd '' -u 3 record; do
        if [[ ! $record ]]; then
            IFS= read -rd '' -u 3 EXECGATE_CODE || return
            EXECGATE_RUNS=yes
            printf T >&4
            return
        fi
        name=${record%%=*}
        if [[ -v $name ]]; then EXECGATE_BEFORE[$name]=set:${!name}; else EXECGATE_BEFORE[$name]=unset; fi
        export "$record"
    done
    return 1
}

# Ends the program that ran; fails where none did.
execgate_done() {
    trap - DEBUG
    shopt -u extdebug
    set +eux
    local name status=$1
    [[ $EXECGATE_RUNS ]] || return
    [[ $EXECGATE_RUNS == yes ]] || status=130
    EXECGATE_RUNS=
    execgate_trap
    for name in "${!EXECGATE_BEFORE[@]}"; do
        case ${EXECGATE_BEFORE[$name]} in
            unset) unset -v "$name" ;;
            *) export "$name=${EXECGATE_BEFORE[$name]#set:}" ;;
        esac
    done
    EXECGATE_BEFORE=()
    printf -v status '\\x%02x' "$status"
    printf "D$status" >&4
}
