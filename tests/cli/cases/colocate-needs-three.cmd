moeplan generate -o a.mpt -q > gen.txt
moeplan plan a.mpt 4:h100 --colocate -o A.yaml --out-b B.yaml
