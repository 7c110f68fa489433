mkdir -p save/tokens_per_expert
for rank in 0 1 2 3; do
    for iter in 10 20 40; do
        echo "{\"iter\": $iter, \"block\": \"decoder\", \"layer\": 1, \"tpe\": [[$iter, $rank], [1, 2]]}"
        echo "{\"iter\": $iter, \"block\": \"mtp\", \"mtp_idx\": 0, \"layer\": 0, \"tpe\": [[3, 4], [5, 6]]}"
    done > save/tokens_per_expert/rank$rank.jsonl
done
gzip -n save/tokens_per_expert/rank2.jsonl
moeplan inspect save --experts 4
echo "exit code $?"
moeplan inspect save --experts 4 --pipeline-stages 1
moeplan inspect save --experts 8 --mtp-base 27
moeplan convert save a.csv --experts 4 --pipeline-stages 2 --to csv -q
cat a.csv
