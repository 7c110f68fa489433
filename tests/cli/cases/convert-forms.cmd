moeplan generate -q --layers 2 --experts 8 --top-k 2 --n-requests 20 --tokens-per-request 6 --seed 5 -o a.mpt > /dev/null
for out in a.npz a.jsonl a.jsonl.gz a.jsonl.zst; do
    form=${out#a.}
    moeplan convert a.mpt $out --to ${form%%.*} | sed 's/[0-9]* bytes/N bytes/'
    moeplan convert $out b.mpt -q > /dev/null && cmp a.mpt b.mpt && echo the same bytes again
done
head -n 3 a.jsonl
cp a.jsonl.zst other-name && moeplan convert other-name b.mpt -q > /dev/null && cmp a.mpt b.mpt && echo by content, not by name
moeplan convert a.mpt a.csv --to csv
echo "exit code $?"
moeplan convert a.jsonl b.mpt --phase decode --experts 9
echo "exit code $?"
ls
