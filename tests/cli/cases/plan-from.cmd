moeplan generate -q --experts 16 --top-k 4 --layers 6 --phase prefill --n-requests 120 --tokens-per-request 32 --zipf 0.9 --seed 2 -o t.mpt > /dev/null
steps="2x2:h100 --tokens-per-rank 256 -q --interval-groups 0"
moeplan plan t.mpt $steps --strategy contiguous --slots-per-gpu 5 -o old.yaml > /dev/null
for budget in 100GB 600MB 0; do
    moeplan plan t.mpt $steps --strategy lpt --from old.yaml --move-budget $budget -o new.yaml | grep -A1 "^from"
    moeplan verify new.yaml t.mpt 2x2:h100 -q
    moeplan migrate old.yaml new.yaml -q --keep-labels | grep "as labelled"
done
moeplan plan t.mpt $steps --strategy lpt --from old.yaml -o new.yaml --json | grep -A 11 '"from"'
