# Stands in for the sandbox agent where there is no Python: runs one program after another. Standard
# input is an archive with a folder for each, with the job, which the driver finds on descriptor 3, its
# stdin, and as argv what starts it, each argument ended by a NUL. Standard output is an archive of the
# folders, with the exit, stdout and stderr of each, and its result and error if they are there.
cd /runs && rm -rf -- * && tar -x || exit
# Slow readers: what a program leaves in a pipe must not be lost because it ends.
slow() { sleep 0.05 && cat; }
for run in /runs/*; do
    rm -rf /tmp/run && mkdir /tmp/run && cd "$run" || exit
    mapfile -d '' argv <argv
    {
        {
            # What this shell says of a program that is killed is not the program's.
            (cd /workspace && cat "$run/stdin" | "${argv[@]}" 2>&5 3< <(cat "$run/job") 4>&- 5>&-)
            echo $? >exit
        } 5>&1 2>/dev/null >&4 | slow >stderr
    } 4>&1 | slow >stdout
    rm job stdin argv
    for file in /tmp/run/*; do
        [ -e "$file" ] && mv "$file" .
    done
done
cd /runs && tar -c -- *
