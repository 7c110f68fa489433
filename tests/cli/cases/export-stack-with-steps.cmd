moeplan export plan.yaml --to sglang --step 1 -o p.json
moeplan export plan.yaml t.mpt --to sglang -o p.json
