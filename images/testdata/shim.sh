# Stands in for the sandbox agent where there is no Python: starts "$@" with its job, which is on
# standard input, on descriptor 3, and its standard input from the variable STDIN. Writes an archive
# of exit, stdout, stderr, and of the result and its error if they are there.
rm -rf /tmp/run && mkdir /tmp/run && cd /tmp/run || exit
cat >job
# Slow readers: what a program leaves in a pipe must not be lost because it ends.
slow() { sleep 0.05 && cat; }
{
    {
        # What this shell says of a program that is killed is not the program's.
        (cd /workspace && printf %s "$STDIN" | "$@" 2>&5 3< <(cat /tmp/run/job) 4>&- 5>&-)
        echo $? >exit
    } 5>&1 2>/dev/null >&4 | slow >stderr
} 4>&1 | slow >stdout
rm job
tar -c -- *
