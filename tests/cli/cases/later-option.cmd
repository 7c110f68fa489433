moeplan plan t.mpt 8:h100 --robust 3 -o p.yaml
