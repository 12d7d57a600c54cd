IFS= read -rd '' -u 3 EXECGATE_CODE && { echo "$0: the code holds a NUL byte, which bash cannot read" >&2; exit 2; }; exec 3<&-; cd /workspace && unset OLDPWD; eval "unset EXECGATE_CODE;$EXECGATE_CODE"
# The line above runs one bash program for Execgate. It must be the first: bash counts the program's
# lines from it. It must be run under this name, from this folder: errors show it, as the program's.
#
# The sandbox agent starts bash with descriptor 3 as the reading end of a pipe, and sends the code
# through it as plain text, ended by EOF. All else is in the environment: INPUT_DATA, the input as
# JSON, and EXECGATE_RESULT, the path of the file that the program may write its result to, as JSON.
