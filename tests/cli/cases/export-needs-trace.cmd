moeplan export plan.yaml --to chrome-trace -o t.json
