moeplan export plan.yaml --to sglang --step 1 -o p.json
moeplan export plan.yaml t.mpt 8:h100 --to sglang -o p.json
