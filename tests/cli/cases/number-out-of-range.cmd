moeplan plan t.mpt 8:h100 --batch 0 -o p.yaml
