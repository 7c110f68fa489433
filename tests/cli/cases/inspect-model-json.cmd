moeplan inspect mixtral-8x7b --json | python3 -c "import json,sys; d = json.load(sys.stdin); print(d[\"schema\"], d[\"version\"], d[\"kind\"], d[\"facts\"][\"experts\"])"
