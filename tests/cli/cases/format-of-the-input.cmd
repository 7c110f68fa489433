# --format named the input once; the words it took then say where they belong now, and ways to ask for the output that differ are refused
for words in "inspect trace.mpt --format native" "order traffic.txt 2:h100 --format nccl-tests" "list --format yaml" "list --json --format table" "list --json --format csv"; do
    moeplan $words
    echo "$?" >&2
done
moeplan list stacks --json --format json | head -n 3
moeplan inspect $SAMPLES/decode.mpt --input-format native | head -n 4
