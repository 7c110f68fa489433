moeplan generate -o t.mpt --experts 4 --top-k 5
