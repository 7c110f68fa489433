moeplan generate -o a.mpt --n-requests 40 -q >/dev/null && moeplan generate -o b.mpt --n-requests 40 --against a.mpt --seed 1 | sed -n "3,5p" | sed "s|[0-9.]*  *[0-9.]*$|FIGURES|"
