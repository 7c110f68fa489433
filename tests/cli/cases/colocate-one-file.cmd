moeplan plan a.mpt b.mpt 4:h100 --colocate -o A.yaml
