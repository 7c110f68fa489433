moeplan generate -o t.mpt --n-requests 40 --seed 5 | head -1 && moeplan inspect t.mpt | grep -E "^(what|synthetic|phase|layers|experts|top_k|requests) "
